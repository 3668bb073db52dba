"""The front process's side of the workers: which one gets a tunnel, and what became of it.

The front process accepts, shakes hands and holds listeners; joined pairs go to worker processes.
A worker that dies takes its tunnels with it and is started again. Where no worker can take a
pair, the front process forwards for it itself.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

from offset_common.errors import LocalProtocolError
from offset_common.relay.forwarding import Tunnels, send_early
from offset_common.relay.handover import MAX_DATAGRAM, encode_pair, end_of, send_with_sockets
from offset_common.relay.limits import Limits
from offset_common.relay.link import Link
from offset_common.relay.loop import READ, Loop
from offset_common.relay.reasons import CloseReason

RESTART_DELAY = 1.0  # seconds from a worker's death to its successor
END_TIMEOUT = 5.0  # seconds that a worker may take to end
_PROJECT = Path(__file__).resolve().parent.parent.parent


class WorkerProcess:
    """One worker, as the front process sees it.

    Args:
        loop: the front process's.
        limits: for a single worker.
        warn: called with a kind and a line for the operator.
    """

    def __init__(self, loop: Loop, limits: Limits, warn: Callable[[str, str], None]) -> None:
        self.links: dict[int, Link] = {}
        self.forwarded = 0  # bytes, lately
        self.alive = False
        self._loop = loop
        self._limits = limits
        self._warn = warn
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._channel: Optional[socket.socket] = None
        self.start()

    def start(self) -> None:
        """Start the process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_DATAGRAM)
        command = [sys.executable, "-m", "offset_common.relay.worker", str(theirs.fileno())]
        command += [str(self._limits.stall), str(self._limits.buffers)]
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], cwd=_PROJECT, stdin=subprocess.DEVNULL
            )
        self._channel = ours
        self._loop.register(ours, READ, self)
        self.forwarded = 0
        self.alive = True

    def hand_over(self, connect: Link, accept: Link, numbers: tuple[int, int]) -> bool:
        """Give a pair to the process; say whether it took it."""
        if self._channel is None:
            return False
        try:
            datagram = encode_pair(end_of(connect, numbers[0]), end_of(accept, numbers[1]))
            if datagram is None:
                return False
            send_with_sockets(self._channel, datagram, [connect.sock.fileno(), accept.sock.fileno()])
        except (LocalProtocolError, OSError):
            return False
        for link, number in zip((connect, accept), numbers):
            link.note = number
            self.links[number] = link
            link.detach(self)
        return True

    def finish(self, link: Link, reason: CloseReason) -> None:
        """Deliver there what is queued for `link`, then close it."""
        self._command(link, "finish", reason)

    def close(self, link: Link, reason: CloseReason) -> None:
        """Close `link` there."""
        assert isinstance(link.note, int)
        if self.links.pop(link.note, None) is not None:
            self._command(link, "close", reason)

    def on_ready(self, mask: int) -> None:
        """Take what the process reports."""
        while self._channel is not None:
            try:
                datagram = self._channel.recv(MAX_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                datagram = b""
            if datagram:
                self._take_report(json.loads(datagram))
            else:
                self._died()

    def on_deadline(self) -> None:
        """Start the process again after it died."""
        self.start()

    def stop(self) -> None:
        """End the process, which ends when its channel does."""
        self._loop.deadlines.cancel(self)
        self._forget_channel()
        if self._process is not None:
            try:
                self._process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _command(self, link: Link, what: str, reason: CloseReason) -> None:
        if self._channel is None:
            return
        try:
            self._channel.send(json.dumps({"do": what, "number": link.note, "reason": reason.name}).encode())
        except BlockingIOError:
            # It has not read for long: it is stuck, and what it holds is lost with it.
            self._died()
        except OSError:
            pass  # its death will be heard of

    def _take_report(self, report: dict[str, Any]) -> None:
        if "forwarded" in report:
            self.forwarded = (self.forwarded + report["forwarded"]) // 2
        elif "bug" in report:
            self._warn("bug", f"a bug of a worker ended a connection:\n{report['bug']}")
        else:
            link = self.links.pop(report["ended"], None)
            if link is not None:
                link.received += report["received"]
                link.sent += report["sent"]
                link.close(CloseReason[report["reason"]], report["detail"])

    def _died(self) -> None:
        self._forget_channel()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._warn("worker", f"a worker process ended, and {len(self.links)} tunnel ends with it")
        links, self.links = list(self.links.values()), {}
        for link in links:
            link.close(CloseReason.WORKER_ENDED)
        self._loop.deadlines.schedule(self, self._loop.now + RESTART_DELAY)

    def _forget_channel(self) -> None:
        self.alive = False
        if self._channel is not None:
            self._loop.unregister(self._channel)
            self._channel.close()
            self._channel = None


class WorkerPool:
    """Gives tunnels to workers; takes the place of `Tunnels` in the front process.

    Args:
        loop: the front process's.
        limits: for the whole relay.
        count: how many workers.
        local: serves what no worker can take.
        warn: called with a kind and a line for the operator.
    """

    role = "tunnel"

    def __init__(
        self, loop: Loop, limits: Limits, count: int, local: Tunnels, warn: Callable[[str, str], None]
    ) -> None:
        self._loop = loop
        self._local = local
        share = limits._replace(buffers=max(1, limits.buffers // count))
        self.workers = [WorkerProcess(loop, share, warn) for _ in range(count)]
        self._next_number = 0

    def join(self, connect: Link, accept: Link, early: Sequence[bytes]) -> None:
        """Let a worker forward between two links from now on, `early` going to `accept` first."""
        if not send_early(connect, accept, early):
            return
        connect.partner, accept.partner = accept, connect
        for link in (connect, accept):
            link.handler = self
            link.pause_reading()
        # Not at once: the frame that made the pair may not be the last one in what was read with it.
        self._loop.soon(partial(self._hand_over, connect, accept))

    def stop(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.stop()

    def readable(self, link: Link) -> None:
        """Nothing is read here: both links are paused, or gone."""

    def process(self, link: Link, data: memoryview) -> None:
        """Nothing is processed here."""

    def quiet(self, link: Link) -> None:
        """Nothing follows from that here."""

    def drained(self, link: Link) -> None:
        """Nothing waits for that here."""

    def _hand_over(self, connect: Link, accept: Link) -> None:
        for link in (connect, accept):
            if link.closed or link.finishing is not None or link.connection is None:
                return  # its partner heard of it
        connect.send_connection()
        accept.send_connection()
        numbers = (self._next_number, self._next_number + 1)
        self._next_number += 2
        workers = [worker for worker in self.workers if worker.alive]
        workers.sort(key=lambda worker: (worker.forwarded, len(worker.links)))
        if not any(worker.hand_over(connect, accept, numbers) for worker in workers):
            self._local.serve(connect, accept)
