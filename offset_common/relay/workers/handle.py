"""One worker process, as the front process sees it: its channel, its heartbeat and its tunnels."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from offset_common.errors import LocalProtocolError
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import ConnectionSession, SocketConnection
from offset_common.relay.event_loop import EACH_IN_ROUND, READ, WRITE, EventLoop
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import Limits
from offset_common.relay.log import log_event
from offset_common.relay.policy import Meter
from offset_common.relay.signals import HANDLED
from offset_common.relay.workers.process import HEARTBEAT_INTERVAL, MAX_TRACEBACK
from offset_common.relay.workers.transfer import MAX_DATAGRAM, encode_pair, end_of

MISSED_HEARTBEATS = 5  # until a worker counts as hung: up to 4.5 s, as each check may be a tick late
MISSED_HEARTBEATS_AT_START = 40  # while the process starts: 30 s
RESTART_DELAY = 1.0  # seconds before a dead worker is replaced, or before the next attempt
END_TIMEOUT = 5.0  # seconds that a worker may take to end
EXIT_TIMEOUT = 0.1  # seconds that it may take after closing its channel; the relay waits
KILL_TIMEOUT = 1.0  # seconds that a killed process may take to end
_PROJECT = Path(__file__).resolve().parent.parent.parent.parent


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block the signals that a worker ignores: a new process inherits the mask, and unblocks them itself.

    Otherwise a Ctrl-C would end a worker that has not set its handlers yet.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


class RemoteTunnel(ConnectionSession):
    """A tunnel end that a worker process serves; only its traffic counters are left here.

    Args:
        connection: the connection, whose socket has moved.
        worker: the process that has it.
        number: identifies the connection in both processes.
        meter: counts the bytes that the worker reports, or None.
    """

    __slots__ = ("_meter", "_number", "_worker")

    state = State.TUNNEL

    def __init__(
        self, connection: SocketConnection, worker: WorkerHandle, number: int, meter: Optional[Meter]
    ) -> None:
        super().__init__(connection)
        self._meter = meter
        self._worker = worker
        self._number = number

    def count(self, size: int) -> None:
        """Count bytes that the worker has read."""
        if self._meter is not None:
            self._meter.count(size)

    def finish(self, reason: CloseReason) -> None:
        """Make the worker deliver the queued output, then close."""
        self._worker.finish(self._number, reason)

    def on_closed(self, reason: CloseReason) -> None:
        """Make the worker close its socket, unless the worker reported the end."""
        self._worker.close(self._number, reason)


class WorkerHandle:
    """One worker process, restarted when it dies or hangs.

    Args:
        loop: the event loop of the front process.
        limits: the limits of one worker.
        program: the module that the process runs, and its arguments.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, loop: EventLoop, limits: Limits, program: Sequence[str]) -> None:
        self.connections: dict[int, SocketConnection] = {}
        self._loop = loop
        self._limits = limits
        self._program = program
        self._process: subprocess.Popen[bytes]
        self._channel: Optional[socket.socket] = None
        self._unsent: deque[bytes] = deque()  # commands
        self._missed = 0  # heartbeats
        self._missed_allowed = MISSED_HEARTBEATS_AT_START
        self._restarts = True
        self._start()

    def take(self, connections: tuple[SocketConnection, SocketConnection], numbers: tuple[int, int]) -> bool:
        """Send a tunnel to the process; return whether that was possible."""
        if self._channel is None or self._unsent or self._missed > 1:
            return False  # it is busy, and a tunnel must not overtake earlier commands
        try:
            ends = [end_of(connection, number) for connection, number in zip(connections, numbers)]
            datagram = encode_pair(ends[0], ends[1])
            if datagram is None:
                return False
            socket.send_fds(self._channel, [datagram], [each.sock.fileno() for each in connections])
        except (LocalProtocolError, OSError):
            return False  # a rekey is under way, or the channel is full
        self.connections.update(zip(numbers, connections))
        return True

    def finish(self, number: int, reason: CloseReason) -> None:
        """Make the process deliver the queued output of a connection, then close it."""
        if number in self.connections:
            self._command(number, "finish", reason)

    def close(self, number: int, reason: CloseReason) -> None:
        """Make the process close a connection, unless it has already reported the end."""
        if self.connections.pop(number, None) is not None:
            self._command(number, "close", reason)

    def on_ready(self, events: int) -> None:
        """Send waiting commands, and handle reports of the process."""
        if events & WRITE:
            self._send_unsent()
        for _ in range(EACH_IN_ROUND):  # thousands of tunnels may end at once
            if self._channel is None:
                return
            try:
                datagram = self._channel.recv(MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                datagram = b""
            if datagram:
                self._missed = 0
                self._missed_allowed = MISSED_HEARTBEATS
                self._take_report(json.loads(datagram))
            else:
                self._died(hangs=False)

    def on_deadline(self) -> None:
        """Count a missed heartbeat, or restart the process."""
        if self._channel is None:
            self._start_again()
            return
        # Counted in calls, not in seconds: otherwise a relay that was suspended would kill its workers.
        self._missed += 1
        if self._missed > self._missed_allowed:
            self._died(hangs=True)
        else:
            self._loop.deadlines.schedule(self, self._loop.now + HEARTBEAT_INTERVAL)

    def stop_restarting(self) -> None:
        """Do not restart the process if it dies: after an upgrade, its program has another version."""
        self._restarts = False

    def disconnect(self) -> None:
        """Close the channel, which makes the process end."""
        self._loop.deadlines.cancel(self)
        self._close_channel()

    def wait_for_end(self) -> None:
        """Wait for the process to end after `disconnect`."""
        status, traceback = self._wait(END_TIMEOUT)
        # Other output is no bug, such as the dynamic linker's warning about a missing LD_PRELOAD library.
        if traceback and (status != 0 or "Traceback" in traceback):
            log_event("bug in a worker", logging.ERROR, collapse="bug", traceback=traceback)

    def _wait(self, timeout: float) -> tuple[Optional[int], str]:
        """Wait for the process to end, or kill it after `timeout`; return its status and its output.

        A process that the system cannot end now, because it waits for a disk, is left alone.
        """
        assert self._process.stderr is not None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(KILL_TIMEOUT)
        status, stderr = self._process.returncode, self._process.stderr
        written = b"" if stderr.closed or status is None else stderr.read()
        stderr.close()
        return status, written.decode("utf-8", "replace")[-MAX_TRACEBACK:].rstrip()

    def _start(self) -> None:
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            with theirs:
                ours.setblocking(False)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_DATAGRAM)
                self._loop.register(ours, READ, self)
                undo.callback(self._loop.unregister, ours)
                module, *arguments = self._program
                command = [sys.executable, "-m", module, str(theirs.fileno())]
                command += [str(self._limits.stall), str(self._limits.buffers), *arguments]
                with _signals_blocked():
                    self._process = subprocess.Popen(
                        command,
                        pass_fds=[theirs.fileno()],
                        cwd=_PROJECT,
                        stdin=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,  # read when it has ended: it only writes a last traceback
                    )
            undo.pop_all()
        self._channel = ours
        self._missed = 0
        self._missed_allowed = MISSED_HEARTBEATS_AT_START
        self._loop.deadlines.schedule(self, self._loop.now + HEARTBEAT_INTERVAL)

    def _command(self, number: int, what: str, reason: CloseReason) -> None:
        if self._channel is not None:
            self._unsent.append(json.dumps({"do": what, "number": number, "reason": reason.name}).encode())
            if len(self._unsent) == 1:
                self._send_unsent()

    def _send_unsent(self) -> None:
        if self._channel is None:
            return
        try:
            while self._unsent:
                self._channel.send(self._unsent[0])
                self._unsent.popleft()
        except ConnectionError:
            self._unsent.clear()  # the end of the channel is reported separately
        except OSError:
            pass  # the process or the system is busy; try again a little later
        self._loop.modify(self._channel, READ | WRITE if self._unsent else READ, self)

    def _take_report(self, report: dict[str, Any]) -> None:
        if "bug" in report:
            log_event("bug in a worker", logging.ERROR, collapse="bug", traceback=report["bug"])
        elif "moved" in report:
            for number, size in report["moved"]:
                connection = self.connections.get(number)
                if connection is not None and isinstance(connection.session, RemoteTunnel):
                    connection.session.count(size)
        elif "ended" in report:
            connection = self.connections.pop(report["ended"], None)
            if connection is not None:
                connection.add_traffic(report["received"], report["sent"])
                connection.close(CloseReason[report["reason"]], report["detail"])

    def _died(self, hangs: bool) -> None:
        self._close_channel()
        status, traceback = self._wait(0.0 if hangs else EXIT_TIMEOUT)
        log_event(
            "worker hangs" if hangs else "worker ended",
            logging.WARNING,
            collapse="worker",
            lost_tunnel_ends=len(self.connections),
            status=status,
            traceback=traceback or None,
        )
        connections, self.connections = list(self.connections.values()), {}
        self._loop.call_for_each(connections, lambda each: each.close(CloseReason.WORKER_ENDED))
        self._loop.deadlines.schedule(self, self._loop.now + RESTART_DELAY)

    def _start_again(self) -> None:
        if not self._restarts:
            return
        try:
            self._start()
        except OSError as error:
            log_event(
                "cannot start a worker",
                logging.WARNING,
                collapse="worker start",
                error=error.strerror or str(error),
            )
            self._loop.deadlines.schedule(self, self._loop.now + RESTART_DELAY)

    def _close_channel(self) -> None:
        self._unsent.clear()
        if self._channel is not None:
            self._loop.unregister(self._channel)
            self._channel.close()
            self._channel = None
