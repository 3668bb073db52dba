"""Count traffic, save it in the usage file, and enforce quotas."""

from __future__ import annotations

import logging
from functools import partial
from typing import Callable, Optional

from offset_common.identity import short_key
from offset_common.policy.rates import EndRate
from offset_common.policy.usage import TOTAL, UsageBusyError, UsageFile, Volumes, month_of
from offset_common.policy.usage_writer import UsageWriter
from offset_common.policy.volume import (
    COLLECT_INTERVAL,
    KeyVolume,
    Quotas,
    VolumeCounter,
    VolumeEvents,
    VolumeMeter,
)
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.deadlines import TICK
from offset_common.relay.lifecycle import State
from offset_common.relay.log import log_event
from offset_common.relay.policy import PolicyRelay


class VolumeControl:
    """Counts what goes through tunnels, and ends tunnels at a quota.

    Args:
        relay: the relay whose tunnels are counted.
        quotas: the first quotas.
        path: the usage file, or None.
        calendar: returns the time since the epoch in seconds.
        name_of: returns the name of a key, or None.

    Raises:
        FileError: the file is of another kind, or its directory does not exist.
        OSError: the system allows no more threads.
    """

    def __init__(
        self,
        relay: PolicyRelay,
        quotas: Quotas,
        path: Optional[str],
        calendar: Callable[[], float],
        name_of: Callable[[bytes], Optional[str]],
    ) -> None:
        self._loop = loop = relay.loop
        self._connections = relay.connections
        self._path = path
        self._name_of = name_of
        self._writer: Optional[UsageWriter] = None
        self._ending = False  # tunnels are about to be ended
        events = VolumeEvents(self._warn, self._exceed, self._save, self._report_keys, loop.call_soon)
        self._counter = VolumeCounter(lambda: loop.now, calendar, quotas, events)
        if path is not None:
            self._start_writer(UsageFile(path), month_of(calendar()))
        elif quotas != Quotas():
            advice = "add --usage FILE, or a restart sets them to zero"
            log_event("volumes are kept in memory only", logging.WARNING, advice=advice)
        self._schedule()

    def on_deadline(self) -> None:
        """Collect what was counted, every second, and end tunnels whose quota is used up."""
        self._schedule()
        self._counter.handle_time()
        if self._ending:
            self._end_tunnels()

    def meter(self, source: bytes, sink: bytes, rate: Optional[EndRate]) -> VolumeMeter:
        """Return the meter of a tunnel end, which also applies its rate."""
        return self._counter.meter(source, sink, rate)

    def refuse_tunnel(self, key: bytes, other: bytes) -> Optional[CloseReason]:
        """Return why there may be no tunnel between two keys, or None."""
        return self._exceeded(key) or self._exceeded(other)

    def change_quotas(self, quotas: Quotas) -> None:
        """Change the quotas, and check the current volumes."""
        self._counter.change_quotas(quotas)

    def close(self) -> None:
        """Save what was counted."""
        self._loop.deadlines.cancel(self)
        self._counter.collect_all()
        self._counter.save()
        if self._writer is not None and not self._writer.close():
            log_event("last volumes not saved", logging.ERROR, file=self._path)

    def _schedule(self) -> None:
        self._loop.deadlines.schedule(self, self._loop.now + COLLECT_INTERVAL - TICK)

    def _start_writer(self, file: UsageFile, month: str) -> None:
        """Add the volumes in the file, and start the thread that writes it."""
        counter, call_soon_threadsafe = self._counter, self._loop.call_soon_threadsafe
        writer = UsageWriter(
            file,
            lambda month, volumes: call_soon_threadsafe(partial(counter.add_saved, month, volumes)),
            lambda reason: call_soon_threadsafe(partial(self._report_failure, reason)),
        )
        try:
            saved = file.load(month)
        except UsageBusyError as error:
            self._report_failure(str(error))
            writer.start(None)
        else:
            writer.start(month)
            counter.add_saved(month, saved)
        self._writer = writer

    def _save(self, month: str, volumes: Volumes) -> None:
        if self._writer is not None:
            self._writer.add(month, volumes)

    def _warn(self, volume: KeyVolume, quota: int) -> None:
        self._log_quota(volume, quota, used_up=False)

    def _exceed(self, volume: KeyVolume, quota: int) -> None:
        self._log_quota(volume, quota, used_up=True)
        # At the next tick: many keys may use up their quotas, and each pass looks at all connections.
        self._ending = True
        self._loop.deadlines.schedule(self, self._loop.now)

    def _end_tunnels(self) -> None:
        """End the tunnels whose quota is used up: one pass for all keys, and a few tunnels in each round."""
        self._ending = False
        tunnels = [each for each in self._connections() if self._must_end(each)]
        self._loop.call_for_each(tunnels, self._end_tunnel)

    def _must_end(self, connection: SocketConnection) -> bool:
        return connection.session.state is State.TUNNEL and self._exceeded(connection.key) is not None

    def _end_tunnel(self, connection: SocketConnection) -> None:
        reason = self._exceeded(connection.key)
        if reason is not None:  # the quota may have been raised since
            connection.finish(reason)

    def _exceeded(self, key: bytes) -> Optional[CloseReason]:
        """Return which quota of a key is used up, or None."""
        if self._counter.is_exceeded(TOTAL):
            return CloseReason.QUOTA
        return CloseReason.QUOTA_OF_KEY if self._counter.is_exceeded(key) else None

    def _log_quota(self, volume: KeyVolume, quota: int, used_up: bool) -> None:
        log_event(
            "the monthly quota is used up" if used_up else "80 % of the monthly quota is used",
            logging.WARNING,
            collapse="quota",
            key=short_key(volume.key) if volume.key else "all",
            name=self._name_of(volume.key),
            used=volume.used,
            quota=quota,
        )

    def _report_failure(self, reason: str) -> None:
        log_event("usage file unavailable", logging.WARNING, collapse="usage", file=self._path, reason=reason)

    def _report_keys(self) -> None:
        advice = "the volumes of further keys count only in the total"
        log_event("too many keys this month", logging.WARNING, advice=advice)
