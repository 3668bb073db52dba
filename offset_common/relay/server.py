"""The relay put together: start, serve, stop."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable, Optional

from offset_common.errors import ServiceError
from offset_common.identity import Identity, encode_key
from offset_common.relay.forwarding import Tunnels
from offset_common.relay.handshakes import HandshakePool
from offset_common.relay.host import Host
from offset_common.relay.limits import Limits
from offset_common.relay.link import Link
from offset_common.relay.lobby import ListeningSocket, Lobby
from offset_common.relay.log import Log
from offset_common.relay.loop import Loop
from offset_common.relay.origins import show_address
from offset_common.relay.reasons import FOLDED, CloseReason
from offset_common.relay.registry import Registry
from offset_common.relay.roles import Roles
from offset_common.relay.state import describe

if TYPE_CHECKING:
    from offset_common.relay.worker_pool import WorkerPool

SHOWN_KEY_SIZE = 8  # hexadecimal digits of a key in the log


class Relay:
    """One relay.

    Args:
        identity: whose public key is in the ticket.
        sockets: bound and listening.
        limits: what it gives to all, to one address and to one key.
        log: where its lines go.
        clock: seconds, as of time.monotonic.
        workers: processes that forward for tunnels; with 1 this one does.

    Raises:
        ServiceError: the system does not start so many processes or threads.
    """

    def __init__(
        self,
        identity: Identity,
        sockets: list[socket.socket],
        limits: Limits,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
        workers: int = 1,
    ) -> None:
        self.identity = identity
        self.limits = limits
        self.log = log
        self.ended: Counter[CloseReason] = Counter()
        self.bugs = 0
        self.loop = Loop(clock)
        self.host = Host(self.loop, limits.stall, limits.buffers, self._link_closed, self._report_bug)
        self.registry = Registry(limits)
        self.tunnels = Tunnels()
        self.lobby = Lobby(self.host, limits, self._admitted, self._refused, self._warn)
        self.workers = self._start_workers(workers) if workers > 1 else None
        joiner = self.workers or self.tunnels
        self.roles = Roles(self.registry, self.lobby.origins, joiner, self._warn)
        self.pool = self._start_handshakes()
        self.lobby.pool = self.pool
        self._listening = [ListeningSocket(sock, self.lobby) for sock in sockets]
        self._drain_until: Optional[float] = None
        self._drained = False  # each link was told to finish
        self.loop.after_round.append(self._after_round)
        self.loop.next_time.append(self.log.next_time)
        self.loop.next_time.append(self._next_time)

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as "host:port"."""
        return [show_address(each.sock.getsockname()) for each in self._listening]

    def serve(self) -> None:
        """Serve until `stop` has ended everything."""
        key = encode_key(self.identity.public_key)
        self.log.line(f"relay ready: listening on {' and '.join(self.addresses)}, public key {key}")
        self.log.flush()
        try:
            self.loop.run()
        finally:
            self.close()

    def stop(self, drain: float) -> None:
        """Take no more connections, let tunnels run on for `drain` seconds, then end them in order.

        A second call ends everything at once.
        """
        if self._drain_until is not None:
            self.loop.stop()
            return
        self._drain_until = self.loop.now + drain
        self.log.line(f"stopping: tunnels have {drain:g} s to end")
        self._stop_listening()
        if self.workers is not None:
            self.workers.start_no_more()
        for link in self.lobby.origins.all():
            if link.handler is not self.tunnels and link.handler is not self.workers:
                link.close(CloseReason.SHUTDOWN)

    def show_state(self) -> None:
        """Write one line about what there is at the moment."""
        self.log.line(describe(self))

    def close(self) -> None:
        """End what is left, and give back every descriptor and thread."""
        self.pool.close()
        self._stop_listening()
        for link in self.lobby.origins.all():
            link.close(CloseReason.SHUTDOWN)
        if self.workers is not None:
            self.workers.stop()
        total = sum(self.ended.values())
        self.log.line(f"stopped after {total} connections")
        self.log.close()
        self.loop.close()

    def _start_workers(self, count: int) -> WorkerPool:
        # Only now: the one-process relay does without this room.
        from offset_common.relay.worker_pool import WorkerPool

        return WorkerPool(self.loop, self.limits, count, self.tunnels, self._warn)

    def _start_handshakes(self) -> HandshakePool:
        try:
            return HandshakePool(self.identity, self.limits.handshake_threads, self.lobby.job_done)
        except ServiceError:
            if self.workers is not None:
                self.workers.stop()
            raise

    def _stop_listening(self) -> None:
        for listening in self._listening:
            listening.close()
        self._listening.clear()

    def _admitted(self, link: Link) -> None:
        if self._drain_until is not None:
            link.close(CloseReason.SHUTDOWN)
        else:
            self.roles.newcomers.admit(link)

    def _refused(self, address: str, reason: CloseReason) -> None:
        self.ended[reason] += 1
        self.log.folded(reason.value, f"refused {address}: {reason.value}", self.loop.now)

    def _warn(self, kind: str, text: str) -> None:
        self.log.folded(kind, text, self.loop.now, most=1)

    def _link_closed(self, link: Link, reason: CloseReason, detail: str) -> None:
        self.ended[reason] += 1
        self.lobby.origins.leave(link)
        self._log_end(link, reason, detail)
        partner = link.partner
        self.roles.closed(link)
        if partner is not None:
            self.tunnels.partner_ended(partner)

    def _log_end(self, link: Link, reason: CloseReason, detail: str) -> None:
        seconds = self.loop.now - link.started
        key = link.key.hex()[:SHOWN_KEY_SIZE] or "-"
        text = (
            f"ended {link.address} key={key} {link.handler.role}: {reason.value}"
            f"{f' ({detail})' if detail else ''}, {link.received} bytes in, {link.sent} out, {seconds:.1f} s"
        )
        if reason in FOLDED:
            self.log.folded(reason.value, text, self.loop.now)
        else:
            self.log.line(text)

    def _report_bug(self, link: Link, error: BaseException) -> None:
        self.bugs += 1
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()
        self.log.folded("bug", f"a bug of the relay ended {link.address}:\n{text}", self.loop.now)

    def _after_round(self) -> None:
        self.log.handle_time(self.loop.now)
        if self.log.pending:
            self.log.flush()
        if self._drain_until is not None:
            self._drain()

    def _drain(self) -> None:
        assert self._drain_until is not None
        links = self.lobby.origins.all()
        if not links or self.loop.now >= self._drain_until + 2.0:
            self.loop.stop()
        elif self.loop.now >= self._drain_until and not self._drained:
            self._drained = True
            for link in links:
                link.finish(CloseReason.SHUTDOWN)

    def _next_time(self) -> Optional[float]:
        if self._drain_until is not None:
            return max(self._drain_until, self.loop.now + 0.1)
        # Lines that nobody takes now are tried again a little later.
        return self.loop.now + 1.0 if self.log.pending else None


def raise_descriptor_limit() -> int:
    """Raise the limit of open descriptors as far as is allowed; return what it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


@contextlib.contextmanager
def stop_on_signals(relay: Relay, drain: float) -> Iterator[None]:
    """Let SIGTERM and SIGINT stop the relay in order, a second one at once, and SIGUSR1 show its state."""
    previous_wakeup = signal.set_wakeup_fd(relay.loop.wake_descriptor, warn_on_full_buffer=False)
    previous = {
        number: signal.signal(number, lambda *_: relay.loop.adopt(lambda: relay.stop(drain)))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, lambda *_: relay.loop.adopt(relay.show_state))
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
