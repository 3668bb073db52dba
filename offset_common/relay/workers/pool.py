"""The workers, as the front process sees them: chooses one for each tunnel.

The front process accepts, computes handshakes and holds listeners; tunnels go to worker processes. A worker
that dies or hangs takes its tunnels with it, and is restarted. If no worker can take a tunnel, the front
process forwards it.
"""

from __future__ import annotations

from collections.abc import Sequence

from offset_common.errors import ServiceError
from offset_common.relay.connection import SocketConnection
from offset_common.relay.event_loop import EventLoop
from offset_common.relay.lifecycle import Event
from offset_common.relay.limits import Limits
from offset_common.relay.sessions.pending_connect import PendingConnect
from offset_common.relay.sessions.tunnel import Tunnel, Tunnels
from offset_common.relay.workers.handle import RemoteTunnel, WorkerHandle


class WorkerPool:
    """Sends tunnels to workers; replaces `Tunnels` in the front process.

    Args:
        loop: the event loop of the front process.
        limits: the limits of the whole relay.
        count: the number of workers.
        local: makes the tunnels, and forwards those that no worker can take.
        program: the module that a worker runs, and its arguments.

    Raises:
        ServiceError: the system cannot start that many processes.
    """

    def __init__(
        self, loop: EventLoop, limits: Limits, count: int, local: Tunnels, program: Sequence[str]
    ) -> None:
        self._local = local
        share = limits._replace(buffers=max(1, limits.buffers // count))
        self.workers: list[WorkerHandle] = []
        self._next_number = 0
        try:
            for _ in range(count):
                self.workers.append(WorkerHandle(loop, share, program))
        except OSError as error:
            self.stop()
            where = f"{error.filename}: " if error.filename is not None else ""  # such as /dev/null
            raise ServiceError(
                f"cannot start {count} worker processes: {where}{error.strerror or error}; "
                "choose fewer with --workers, or raise the limits on open files and processes"
            ) from None

    def make_tunnel(self, pending: PendingConnect, acceptor: SocketConnection) -> None:
        """Make a worker forward between a pending connect and its acceptor, the early data first."""
        acceptor.call(self._move, *self._local.prepare(pending, acceptor))

    def stop_restarting(self) -> None:
        """Restart no more workers: the relay is about to stop."""
        for worker in self.workers:
            worker.stop_restarting()

    def stop(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.disconnect()
        for worker in self.workers:
            worker.wait_for_end()

    def _move(self, connect: Tunnel, accept: Tunnel) -> None:
        ends = (connect, accept)
        connections = (connect.connection, accept.connection)
        if any(end.connection.session is not end for end in ends):
            return  # one of them ended, and the other with it
        numbers = (self._next_number, self._next_number + 1)
        self._next_number += 2
        workers = sorted(self.workers, key=lambda worker: len(worker.connections))
        taker = next((worker for worker in workers if worker.take(connections, numbers)), None)
        for end, connection, number in zip(ends, connections, numbers):
            if taker is None:
                connection.resume_reading()
            else:
                connection.release()
                connection.change_session(Event.MOVE, RemoteTunnel(connection, taker, number, end.meter))
