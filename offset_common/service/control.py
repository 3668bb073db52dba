"""The control of a running relay by signals and by the service manager.

    SIGTERM, SIGINT   stop: no new connections, tunnels have some time; a second one ends everything at once
    SIGHUP            read the operator's files again
    SIGUSR1           log the state
    SIGUSR2           upgrade in place: a fresh process takes over, this one lets its tunnels end

The event loop sends watchdog messages to the service manager, which restarts a relay whose loop is stuck.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from typing import Callable, NamedTuple, Optional

from offset_common.relay.server import Relay
from offset_common.relay.signals import STOPPING, Signals
from offset_common.service.notifier import Notifier
from offset_common.service.predecessor import Predecessor
from offset_common.service.sockets import ListeningSockets
from offset_common.service.successor import Upgrade, report_obstacle

STATUS_INTERVAL = 10.0  # seconds between two status lines for `systemctl status`
RETURN_TIME = 10.0  # seconds after an upgrade during which connects wait for returning listeners
END_TIME = 20.0  # seconds after the drain, at most: last output, workers, the usage file and the directory
RETRY_INTERVAL = 0.1  # seconds before a message that the service manager did not accept is sent again


class Drain(NamedTuple):
    """The time that tunnels get to end, in seconds.

    Args:
        stop: after SIGTERM.
        upgrade: after another process has taken over.
    """

    stop: float
    upgrade: float


class Control:
    """One running relay under its service manager and its signals.

    Args:
        relay: the relay.
        notifier: sends messages to the service manager.
        sockets: the listening sockets, for a successor.
        drain: the time that tunnels get to end.
        retire_status: called when a successor has taken over the address of the status server.
    """

    def __init__(
        self,
        relay: Relay,
        notifier: Notifier,
        sockets: ListeningSockets,
        drain: Drain,
        retire_status: Callable[[], None],
    ) -> None:
        self._relay = relay
        self._notifier = notifier
        self._drain = drain
        self._retire_status = retire_status
        self._upgrade = Upgrade(relay.loop, sockets, notifier.variables, self._hand_over, self._upgraded)
        self._addresses = ", ".join(relay.addresses)
        self._interval = STATUS_INTERVAL
        if notifier.watchdog is not None:
            self._interval = min(max(notifier.watchdog / 2, RETRY_INTERVAL), STATUS_INTERVAL)
        self._next_sign = math.inf
        self._handed_over = False

    def start(self) -> None:
        """Report that the relay is serving, and send watchdog messages from now on."""
        if self._notifier.enabled:
            self._relay.loop.add_periodic(self._give_sign, lambda: self._next_sign)
            self._next_sign = 0.0
        self._notify("READY=1", self._status())

    def await_listeners(self) -> None:
        """Let connects wait for listeners that are about to return from the old process."""
        self._relay.rendezvous.expect_listeners(RETURN_TIME)

    def act(self, number: int) -> None:
        """Do what a signal asks for."""
        if number in STOPPING:
            self._upgrade.cancel("the relay is stopping")
            self._relay.stop(self._drain.stop)
            # Otherwise systemd kills the relay after TimeoutStopSec, and its tunnels lose what is queued.
            extend = f"EXTEND_TIMEOUT_USEC={round((self._drain.stop + END_TIME) * 1_000_000)}"
            self._notify("STOPPING=1", extend, self._status())
        elif number == signal.SIGHUP:
            self._upgrade.reload_later()
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._notify("RELOADING=1", f"MONOTONIC_USEC={now}")
            self._relay.reload(lambda: self._notify("READY=1", self._status()))
        elif number == signal.SIGUSR1:
            self._relay.show_state()
        elif number == signal.SIGUSR2:
            self._begin_upgrade()

    def _begin_upgrade(self) -> None:
        if self._upgrade.under_way:
            report_obstacle("an upgrade is under way")
        elif self._relay.draining:
            report_obstacle("the relay is stopping, or has handed over")
        else:
            self._upgrade.begin()

    def _hand_over(self, successor: int) -> None:
        # The service manager accepts messages only from the main process, so announce the new one first.
        self._notify(f"MAINPID={successor}", "STATUS=handing over to a new process")

    def _upgraded(self) -> None:
        self._handed_over = True
        self._retire_status()
        self._relay.retire(self._drain.upgrade)

    def _notify(self, *fields: str) -> None:
        if not self._handed_over:
            self._notifier.send(*fields)
            if self._notifier.has_unsent:
                self._next_sign = self._relay.loop.now + RETRY_INTERVAL

    def _give_sign(self) -> None:
        """Send a watchdog message if it is time; called in each round of the event loop."""
        now = self._relay.loop.now
        if now < self._next_sign:
            return
        if self._notifier.has_unsent:
            self._notifier.flush()
        elif not self._handed_over:
            sign = ["WATCHDOG=1"] if self._notifier.watchdog is not None else []
            self._notifier.send(*sign, self._status())
        self._next_sign = now + (RETRY_INTERVAL if self._notifier.has_unsent else self._interval)

    def _status(self) -> str:
        what = "stopping" if self._relay.draining else f"listening on {self._addresses}"
        return f"STATUS={what}; connections: {len(self._relay.admission)}"


@contextlib.contextmanager
def controlled(
    control: Control, relay: Relay, signals: Signals, predecessor: Optional[Predecessor]
) -> Iterator[None]:
    """Let signals and the service manager control a relay; take over from a predecessor first.

    Raises:
        ServiceError: the predecessor has ended or does not answer.
    """
    call_soon = relay.loop.call_soon_threadsafe
    call_soon(control.start)
    if predecessor is not None:
        call_soon(control.await_listeners)
        if predecessor.take_over():
            call_soon(lambda: control.act(signal.SIGHUP))
    signals.attach(lambda number: call_soon(lambda: control.act(number)), relay.loop.wake_descriptor)
    try:
        yield
    finally:
        signals.detach()
