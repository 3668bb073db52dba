"""The front process's side of the workers: which one gets a tunnel, and what became of it.

The front process accepts, shakes hands and holds listeners; joined pairs go to worker processes.
A worker that dies takes its tunnels with it and is started again. Where no worker can take a
pair, the front process forwards for it itself.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

from offset_common.errors import LocalProtocolError, ServiceError
from offset_common.relay.forwarding import Tunnels, send_early
from offset_common.relay.handover import MAX_DATAGRAM, encode_pair, end_of, send_with_sockets
from offset_common.relay.limits import Limits
from offset_common.relay.link import Link
from offset_common.relay.loop import READ, WRITE, Loop
from offset_common.relay.reasons import CloseReason
from offset_common.relay.worker import SIGNALS_OF_THE_FRONT

RESTART_DELAY = 1.0  # seconds from a worker's death to its successor, or to the next try
STUCK_AFTER = 5.0  # seconds in which a worker took nothing of what waits for it
LOAD_HALVES_IN = 1.0  # seconds until what a worker forwarded counts half
LOAD_COUNTS_FROM = 20  # bits: a worker that forwarded under a mebibyte lately has nothing to do
END_TIMEOUT = 5.0  # seconds that a worker may take to end
_PROJECT = Path(__file__).resolve().parent.parent.parent


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Hold back the signals that a worker ignores: a process that starts inherits that, and lets go itself.

    A Ctrl-C would end one that has not said yet what it ignores. Here they come afterwards.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS_OF_THE_FRONT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


class WorkerProcess:
    """One worker, as the front process sees it.

    Args:
        loop: the front process's.
        limits: for a single worker.
        warn: called with a kind and a line for the operator.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, loop: Loop, limits: Limits, warn: Callable[[str, str], None]) -> None:
        self.links: dict[int, Link] = {}
        self._loop = loop
        self._limits = limits
        self._warn = warn
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._channel: Optional[socket.socket] = None
        self._unsent: deque[bytes] = deque()  # commands
        self._taken_at = 0.0  # when it took the last of them, or when there began to be some
        self._finishing: set[int] = set()  # the numbers of links that it was told to finish
        self._forwarded = 0.0  # bytes, those of long ago counted less
        self._forwarded_at = 0.0
        self._restarts = True
        self._start()

    @property
    def alive(self) -> bool:
        """Whether there is a process."""
        return self._channel is not None

    def forwarded(self) -> int:
        """Return how many bytes it forwarded lately."""
        return int(self._forwarded * 0.5 ** ((self._loop.now - self._forwarded_at) / LOAD_HALVES_IN))

    def _start(self) -> None:
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            with theirs:
                ours.setblocking(False)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_DATAGRAM)
                self._loop.register(ours, READ, self)
                undo.callback(self._loop.unregister, ours)
                command = [sys.executable, "-m", "offset_common.relay.worker", str(theirs.fileno())]
                command += [str(self._limits.stall), str(self._limits.buffers)]
                with _signals_held_back():
                    self._process = subprocess.Popen(
                        command, pass_fds=[theirs.fileno()], cwd=_PROJECT, stdin=subprocess.DEVNULL
                    )
            undo.pop_all()
        self._channel = ours
        self._forwarded = 0.0

    def hand_over(self, connect: Link, accept: Link, numbers: tuple[int, int]) -> bool:
        """Give a pair to the process; say whether it took it."""
        if self._channel is None or self._unsent:
            return False  # it has enough to do; and nothing overtakes what it was told before
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
        """Deliver there what is queued for `link`, then close it; said twice, it is told once."""
        assert isinstance(link.note, int)
        if link.note in self.links and link.note not in self._finishing:
            self._finishing.add(link.note)
            self._command(link, "finish", reason)

    def close(self, link: Link, reason: CloseReason) -> None:
        """Close `link` there."""
        assert isinstance(link.note, int)
        if self._forget_link(link.note) is not None:
            self._command(link, "close", reason)

    def on_ready(self, mask: int) -> None:
        """Send what waits, and take what the process reports."""
        if mask & WRITE:
            self._send_unsent()
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
        """Start the process again after it died, or see whether it is stuck."""
        if self._channel is None:
            self._start_again()
        elif self._unsent:
            self._send_unsent()
            if self._unsent and self._loop.now - self._taken_at >= STUCK_AFTER:
                self._died()

    def start_no_more(self) -> None:
        """Leave the process dead, should it die."""
        self._restarts = False

    def let_go(self) -> None:
        """Let the process end, which it does when its channel is closed."""
        self._loop.deadlines.cancel(self)
        self._forget_channel()

    def wait_for_end(self) -> None:
        """Wait for the end of the process that was let go."""
        if self._process is not None:
            try:
                self._process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _command(self, link: Link, what: str, reason: CloseReason) -> None:
        if self._channel is None:
            return
        self._unsent.append(json.dumps({"do": what, "number": link.note, "reason": reason.name}).encode())
        if len(self._unsent) == 1:  # or it does not take them at the moment
            self._taken_at = self._loop.now
            self._send_unsent()

    def _send_unsent(self) -> None:
        if self._channel is None:
            return
        try:
            while self._unsent:
                self._channel.send(self._unsent[0])
                self._unsent.popleft()
                self._taken_at = self._loop.now
        except ConnectionError:
            self._unsent.clear()  # its death will be heard of
        except OSError:
            pass  # it is busy, or the system is: a little later
        if self._unsent:
            self._loop.deadlines.schedule(self, self._taken_at + STUCK_AFTER)
        self._loop.modify(self._channel, READ | WRITE if self._unsent else READ, self)

    def _take_report(self, report: dict[str, Any]) -> None:
        if "forwarded" in report:
            self._forwarded = self.forwarded() + report["forwarded"]
            self._forwarded_at = self._loop.now
        elif "bug" in report:
            self._warn("bug", f"a bug of a worker ended a connection:\n{report['bug']}")
        else:
            link = self._forget_link(report["ended"])
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
        self._finishing.clear()
        for link in links:
            link.close(CloseReason.WORKER_ENDED)
        self._loop.deadlines.schedule(self, self._loop.now + RESTART_DELAY)

    def _start_again(self) -> None:
        if not self._restarts:
            return
        try:
            self._start()
        except OSError as error:
            self._warn("worker start", f"a worker process cannot be started: {error.strerror or error}")
            self._loop.deadlines.schedule(self, self._loop.now + RESTART_DELAY)

    def _forget_link(self, number: int) -> Optional[Link]:
        self._finishing.discard(number)
        return self.links.pop(number, None)

    def _forget_channel(self) -> None:
        self._unsent.clear()
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

    Raises:
        ServiceError: the system does not start so many processes.
    """

    role = "tunnel"

    def __init__(
        self, loop: Loop, limits: Limits, count: int, local: Tunnels, warn: Callable[[str, str], None]
    ) -> None:
        self._loop = loop
        self._local = local
        share = limits._replace(buffers=max(1, limits.buffers // count))
        self.workers: list[WorkerProcess] = []
        self._next_number = 0
        try:
            for _ in range(count):
                self.workers.append(WorkerProcess(loop, share, warn))
        except OSError as error:
            self.stop()
            raise ServiceError(
                f"cannot start {count} worker processes: {error.strerror or error}; "
                "choose fewer with --workers, or raise the limits of open files and processes"
            ) from None

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

    def start_no_more(self) -> None:
        """Start no worker again: the relay is about to stop."""
        for worker in self.workers:
            worker.start_no_more()

    def stop(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.let_go()
        for worker in self.workers:
            worker.wait_for_end()

    def readable(self, link: Link) -> None:
        """Nothing is read here: both links are paused, or gone."""

    def process(self, link: Link, data: memoryview) -> None:
        """Nothing is processed here."""

    def quiet(self, link: Link) -> None:
        """Nothing follows from that here."""

    def drained(self, link: Link) -> None:
        """Nothing waits for that here."""

    def _hand_over(self, connect: Link, accept: Link) -> None:
        pair = (connect, accept)
        if not all(map(_lives, pair)):
            return  # its partner heard of it
        for link in pair:
            link.send_connection()
        if not all(map(_lives, pair)):
            return  # that was the moment at which it was found lost
        numbers = (self._next_number, self._next_number + 1)
        self._next_number += 2
        workers = sorted((worker for worker in self.workers if worker.alive), key=_load)
        if not any(worker.hand_over(connect, accept, numbers) for worker in workers):
            self._local.serve(connect, accept)


def _lives(link: Link) -> bool:
    return not link.closed and link.finishing is None and link.connection is not None


def _load(worker: WorkerProcess) -> tuple[int, int]:
    # What a worker forwarded is known a second later. Those of which it is about the same, or next to
    # nothing, are filled evenly: or all the tunnels of that second would go to one.
    return (worker.forwarded() >> LOAD_COUNTS_FROM).bit_length(), len(worker.links)
