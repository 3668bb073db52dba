"""Volumes and quotas: what each key sends and receives through tunnels in a calendar month (UTC).

Each tunnel end has a meter that only counts. Once a second, the counts are added to the volumes of keys, and
quotas are checked. There may be thousands of meters, so each round of the loop handles some of them.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional
from weakref import WeakValueDictionary

from offset_common.policy.rates import SMALLEST_READ, EndRate
from offset_common.policy.usage import TOTAL, Volume, Volumes, month_of

COLLECT_INTERVAL = 1.0  # seconds
METERS_IN_ROUND = 100  # collected in one round of the loop; each takes 10 us
COLLECT_SIZE = 1 << 20  # bytes of one meter that are collected at once, to meet quotas closely
SAVE_INTERVAL = 5.0  # seconds
WARNING_SHARE = 0.8  # of a quota
MAX_KEYS = 100_000  # counted in a month; strangers can make any number of keys


class Quotas(NamedTuple):
    """How many bytes may be used in a month; None for no limit.

    Args:
        all: bytes through all tunnels, each counted once.
        key: bytes that one key sends and receives.
    """

    all: Optional[int] = None
    key: Optional[int] = None

    def of(self, key: bytes) -> Optional[int]:
        """Return the quota of a key, or that of all keys if it is TOTAL."""
        return self.all if key == TOTAL else self.key


class KeyVolume:
    """The bytes that one key, or all keys together, used this month.

    Args:
        key: the key, or TOTAL.
    """

    __slots__ = ("__weakref__", "exceeded", "key", "volume", "warned")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.volume = Volume()
        self.warned = False
        self.exceeded = False

    @property
    def used(self) -> int:
        """The bytes that count toward the quota; in the total, each byte counts once."""
        return self.volume.received if self.key == TOTAL else self.volume.total

    def add(self, volume: Volume) -> None:
        """Count bytes."""
        self.volume = self.volume.plus(volume)

    def begin_month(self) -> None:
        """Forget the last month."""
        self.volume = Volume()
        self.warned = self.exceeded = False

    def check(self, quota: Optional[int]) -> tuple[bool, bool]:
        """Return whether the warning level was just reached, and whether the quota was just used up."""
        was_warned, was_exceeded = self.warned, self.exceeded
        self.exceeded = quota is not None and self.used >= quota
        self.warned = quota is not None and self.used >= quota * WARNING_SHARE
        return self.warned and not was_warned, self.exceeded and not was_exceeded


class VolumeEvents(NamedTuple):
    """The functions that a counter calls.

    Args:
        warn: called with a volume that has reached 80 % of its quota, and that quota.
        exceed: called with a volume whose quota is used up, and that quota.
        save: called with a month and what was used in it since the last call.
        too_many_keys: called when a month has so many keys that further ones count only in TOTAL.
        call_soon: called with a function to run in the next round of the loop.
    """

    warn: Callable[[KeyVolume, int], None]
    exceed: Callable[[KeyVolume, int], None]
    save: Callable[[str, Volumes], None]
    too_many_keys: Callable[[], None]
    call_soon: Callable[[Callable[[], None]], None]


class VolumeCounter:
    """The volumes of a relay.

    Args:
        clock: returns the loop's time in seconds.
        calendar: returns the time since the epoch in seconds.
        quotas: the first quotas.
        events: the functions that it calls.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        calendar: Callable[[], float],
        quotas: Quotas,
        events: VolumeEvents,
    ) -> None:
        self._clock = clock
        self._calendar = calendar
        self._quotas = quotas
        self._events = events
        self._total = KeyVolume(TOTAL)
        self._keys: dict[bytes, KeyVolume] = {}  # of this month
        self._known: WeakValueDictionary[bytes, KeyVolume] = WeakValueDictionary()  # and those of tunnels
        self._counting: dict[VolumeMeter, None] = {}  # those with bytes that are not collected yet
        self._to_collect: list[VolumeMeter] = []  # those still to be collected in this second
        self._unsaved: dict[bytes, Volume] = {}  # by key: what the usage file does not have yet
        self._month = month_of(calendar())
        self._next_save = clock() + SAVE_INTERVAL
        self._reported_keys = False

    @property
    def month(self) -> str:
        """The current month, as YYYY-MM."""
        return self._month

    def is_exceeded(self, key: bytes) -> bool:
        """Return whether the quota of a key, or of TOTAL, is used up."""
        volume = self._total if key == TOTAL else self._keys.get(key)
        return volume is not None and volume.exceeded

    def meter(self, source: bytes, sink: bytes, rate: Optional[EndRate]) -> VolumeMeter:
        """Return the meter of a tunnel end.

        Args:
            source: the key whose connection is read.
            sink: the key at the other end.
            rate: how fast the end may be read, or None for no limit.
        """
        return VolumeMeter(self, self._volume_of(source), self._volume_of(sink), rate)

    def begin_counting(self, meter: VolumeMeter) -> None:
        """Collect from this meter the next time."""
        self._counting[meter] = None

    def add_saved(self, month: str, volumes: Volumes) -> None:
        """Count what the usage file has for a month."""
        if month != self._month:
            return
        self._total.add(volumes.get(TOTAL, Volume()))
        for key, volume in volumes.items():
            if key != TOTAL:
                used = self._volume_of(key)
                used.add(volume)
                self._has_place(used)
        self._check_all()

    def change_quotas(self, quotas: Quotas) -> None:
        """Change the quotas, and check the current volumes."""
        if quotas != self._quotas:
            self._quotas = quotas
            self._check_all()

    def handle_time(self) -> None:
        """Collect, check and save; call this every COLLECT_INTERVAL."""
        if not self._to_collect:
            self._to_collect = list(self._counting)
            self._collect_some()
        month = month_of(self._calendar())
        if month != self._month:
            self._begin_month(month)
        elif self._clock() >= self._next_save:
            self.save()

    def collect(self, meter: VolumeMeter) -> None:
        """Add what one meter counted to the volumes, and check the quotas."""
        if meter not in self._counting:
            return
        del self._counting[meter]
        size = meter.take()
        self._count(meter.source, Volume(size, 0))
        self._count(meter.sink, Volume(0, size))
        self._count(self._total, Volume(size, size))

    def collect_all(self) -> None:
        """Collect from all meters at once, because the relay stops."""
        for meter in list(self._counting):
            self.collect(meter)

    def save(self) -> None:
        """Pass on what was used since the last save."""
        self._next_save = self._clock() + SAVE_INTERVAL
        volumes, self._unsaved = self._unsaved, {}
        self._events.save(self._month, volumes)

    def _collect_some(self) -> None:
        for meter in self._to_collect[-METERS_IN_ROUND:]:
            self.collect(meter)
        del self._to_collect[-METERS_IN_ROUND:]
        if self._to_collect:
            self._events.call_soon(self._collect_some)

    def _count(self, used: KeyVolume, volume: Volume) -> None:
        used.add(volume)
        if used is self._total or self._has_place(used):
            self._unsaved[used.key] = self._unsaved.get(used.key, Volume()).plus(volume)
        self._check(used)

    def _begin_month(self, month: str) -> None:
        self.save()
        self._month = month
        self._reported_keys = False
        self._total.begin_month()
        self._keys.clear()
        for volume in self._known.values():
            volume.begin_month()

    def _volume_of(self, key: bytes) -> KeyVolume:
        volume = self._known.get(key)
        if volume is None:
            volume = self._known[key] = KeyVolume(key)
        return volume

    def _has_place(self, used: KeyVolume) -> bool:
        """Return whether a key is counted separately, as one of the first MAX_KEYS of the month."""
        if used.key in self._keys:
            return True
        if len(self._keys) < MAX_KEYS:
            self._keys[used.key] = used
            return True
        if not self._reported_keys:
            self._reported_keys = True
            self._events.too_many_keys()
        return False

    def _check_all(self) -> None:
        for volume in [self._total, *self._keys.values()]:
            self._check(volume)

    def _check(self, volume: KeyVolume) -> None:
        quota = self._quotas.of(volume.key)
        warn, exceed = volume.check(quota)
        if quota is not None and exceed:
            self._events.exceed(volume, quota)
        elif quota is not None and warn:
            self._events.warn(volume, quota)


class VolumeMeter:
    """Counts the bytes of one end of a tunnel.

    Args:
        counter: collects what the meter counts.
        source: the volume of the key whose connection is read.
        sink: the volume of the key at the other end.
        rate: how fast the end may be read, if that is limited.
    """

    __slots__ = ("_counted", "_counter", "_rate", "sink", "source")

    def __init__(
        self, counter: VolumeCounter, source: KeyVolume, sink: KeyVolume, rate: Optional[EndRate]
    ) -> None:
        self.source = source
        self.sink = sink
        self._counter = counter
        self._rate = rate
        self._counted = 0

    def allow(self, most: int, least: int = SMALLEST_READ) -> int:
        """Return how many bytes may be read now, up to `most`; 0 if fewer than `least` are allowed."""
        return most if self._rate is None else self._rate.allow(most, least)

    def count(self, size: int) -> None:
        """Count bytes that were read."""
        counted = self._counted
        if not counted and size:
            self._counter.begin_counting(self)
        self._counted = counted + size
        if counted + size >= COLLECT_SIZE:
            self._counter.collect(self)
        if self._rate is not None:
            self._rate.count(size)

    def end(self) -> None:
        """Return the bytes that were allowed but not read: the tunnel has ended."""
        if self._rate is not None:
            self._rate.end()

    def take(self) -> int:
        """Return what was counted since the last call."""
        counted, self._counted = self._counted, 0
        return counted
