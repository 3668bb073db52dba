"""The policy of a relay: applies all of the operator's options together.

A separate thread reads the files, since a disk may be slow; the event loop applies their content.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Callable, NamedTuple, Optional

from offset_common.errors import OperatorError, ServiceError
from offset_common.policy.access import AccessRules, load_access
from offset_common.policy.access_control import AccessControl
from offset_common.policy.rates import EndRate, Rates
from offset_common.policy.volume import Quotas
from offset_common.policy.volume_control import VolumeControl
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.limits import Limits
from offset_common.relay.log import log_event
from offset_common.relay.policy import Meter, Policy, PolicyRelay
from offset_common.threads import start_thread
from offset_common.wire.messages import InitRole


class PolicyOptions(NamedTuple):
    """The options of the operator.

    Args:
        access: the path of the access file.
        rate: bytes a second for all tunnels; None for no limit, here and below.
        rate_per_key: bytes a second for the tunnels of each key.
        quota: bytes a month through all tunnels.
        quota_per_key: bytes a month that each key sends and receives.
        usage: the path of the usage file.
    """

    access: Optional[str] = None
    rate: Optional[int] = None
    rate_per_key: Optional[int] = None
    quota: Optional[int] = None
    quota_per_key: Optional[int] = None
    usage: Optional[str] = None

    @property
    def has_rates(self) -> bool:
        """Whether a rate is limited."""
        return self.rate is not None or self.rate_per_key is not None

    @property
    def quotas(self) -> Quotas:
        """The quotas."""
        return Quotas(self.quota, self.quota_per_key)


class Settings(NamedTuple):
    """The content of a configuration file that was read again.

    Args:
        options: the options of the policy.
        limits: the limits of the relay.
        need_restart: options that have changed but need a restart.
    """

    options: PolicyOptions
    limits: Limits
    need_restart: Sequence[str]


class Steering(Policy):
    """Applies the options to a relay.

    Args:
        relay: the relay.
        options: the operator's options.
        calendar: returns the time since the epoch in seconds.
        reread: reads the configuration file again, or None; called in a thread, may raise OperatorError.

    Raises:
        FileError: a file cannot be read, or has a mistake.
        OSError: the system allows no more threads.
    """

    def __init__(
        self,
        relay: PolicyRelay,
        options: PolicyOptions,
        calendar: Callable[[], float] = time.time,
        reread: Optional[Callable[[], Settings]] = None,
    ) -> None:
        self._relay = relay
        self._options = options
        self._reread = reread
        self._access = AccessControl(_load_rules(options))
        # With a configuration file, a reload may ask for rates and quotas later.
        self._rates: Optional[Rates] = None
        if options.has_rates or reread is not None:
            self._rates = Rates(lambda: relay.loop.now, *self._rates_of_process())
            relay.loop.add_periodic(self._rates.resume_waiting, self._rates.next_time)
        self._volume: Optional[VolumeControl] = None
        if options.usage is not None or options.quotas != Quotas() or reread is not None:
            self._volume = VolumeControl(relay, options.quotas, options.usage, calendar, self.name_of)
        self._reloading = False
        self._reload_again = False
        self._call_after_reload: list[Callable[[], None]] = []

    @property
    def meters(self) -> bool:
        """Whether there are rates, volumes or quotas, or a reload may ask for them."""
        return self._options.has_rates or self._volume is not None

    @property
    def worker_program(self) -> list[str]:
        """The program of each worker process, which gets an equal part of the rates."""
        if not self.meters:
            return super().worker_program
        from offset_common.policy.metered_worker import program  # only for relays with workers

        return program(*self._rates_of_process())

    def close(self) -> None:
        """Stop: save what was counted."""
        if self._volume is not None:
            self._volume.close()

    def name_of(self, key: bytes) -> Optional[str]:
        """Return the name that the access file gives a key, or None."""
        return self._access.name_of(key)

    def refuse_address(self, host: str) -> Optional[CloseReason]:
        """Return why an address may not connect, or None."""
        return CloseReason.DENIED if self._access.denies_address(host) else None

    def refuse_peer(self, connection: SocketConnection) -> Optional[CloseReason]:
        """Return why a connection is closed as soon as its key is proven, or None."""
        return CloseReason.DENIED if self._access.denies_peer(connection) else None

    def refuse_role(
        self, connection: SocketConnection, role: InitRole, other: bytes
    ) -> Optional[CloseReason]:
        """Return why a connection may not have a role, or None."""
        if not self._access.record_role(connection, role):
            return CloseReason.DENIED
        if self._volume is not None and role is not InitRole.LISTEN:
            return self._volume.refuse_tunnel(connection.key, other)
        return None

    def meter(self, source: SocketConnection, sink_key: bytes) -> Optional[Meter]:
        """Return the meter of what `source` sends to the peer with `sink_key`, or None for no limit."""
        rate: Optional[EndRate] = None
        if self._rates is not None:
            rate = self._rates.end(source.address.prefix, source.key, sink_key, source.resume_reading)
        return rate if self._volume is None else self._volume.meter(source.key, sink_key, rate)

    def forget(self, connection: SocketConnection) -> None:
        """Forget a connection that ended."""
        self._access.forget(connection)

    def _rates_of_process(self) -> tuple[Optional[float], Optional[float]]:
        rates = (self._options.rate, self._options.rate_per_key)
        all_, key = (None if rate is None else rate / self._relay.workers for rate in rates)
        return all_, key

    # Reading the files again.

    def reload(self, done: Callable[[], None] = lambda: None) -> None:
        """Read all files again, then call `done`; a mistake in one leaves everything as it was."""
        self._call_after_reload.append(done)
        self._reload_again = self._reloading
        if not self._reloading:
            self._reloading = True
            try:
                start_thread(self._read_files, "reload")
            except OSError as error:
                self._report_mistake(ServiceError(str(error)))

    def _read_files(self) -> None:
        call_soon_threadsafe = self._relay.loop.call_soon_threadsafe
        try:
            settings = None if self._reread is None else self._reread()
            options = self._options if settings is None else settings.options
            call_soon_threadsafe(partial(self._apply, _load_rules(options), settings))
        except Exception as error:  # even a bug: otherwise no later reload could run
            call_soon_threadsafe(partial(self._report_mistake, error))

    def _apply(self, rules: AccessRules, settings: Optional[Settings]) -> None:
        if settings is not None:
            self._options = settings.options
            self._relay.change_limits(settings.limits)
            if self._rates is not None:
                self._rates.change(*self._rates_of_process())
            if self._volume is not None:
                self._volume.change_quotas(self._options.quotas)
        self._access.change_rules(rules)
        loop = self._relay.loop
        loop.call_for_each(self._relay.connections(), self._access.finish_denied)
        loop.call_for_each([settings], self._report_reload)  # after all of them

    def _report_reload(self, settings: Optional[Settings]) -> None:
        log_event("reloaded", access=self._options.access, closed=self._access.finished)
        if settings is not None and settings.need_restart:
            names = list(settings.need_restart)
            log_event("changed options that need a restart", logging.WARNING, options=names)
        self._end_reload()

    def _report_mistake(self, error: Exception) -> None:
        if isinstance(error, OperatorError):
            log_event("not reloaded", logging.WARNING, reason=str(error))
        else:
            log_event("reload failed", logging.ERROR, exc_info=error)
        self._end_reload()

    def _end_reload(self) -> None:
        self._reloading = False
        if self._reload_again:
            self.reload()
            return
        waiting, self._call_after_reload = self._call_after_reload, []
        for done in waiting:
            done()


def _load_rules(options: PolicyOptions) -> AccessRules:
    return AccessRules() if options.access is None else load_access(options.access)
