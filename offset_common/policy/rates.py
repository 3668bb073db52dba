"""Token buckets: how many bytes a second may be read, for all tunnels and for those of each key.

A bucket fills at its rate, up to BURST seconds' worth. Every byte that is read takes one token from the
bucket of all, and from those of the keys at both ends of the tunnel. While a bucket is empty, ends are not
read: the system's buffers fill, and their peers wait. Nothing is dropped.

Every TICK, the addresses with waiting ends get equal shares, and so do the ends of each, in the order of
arrival. An end that has used little lately is *light* and does not wait: its small messages may overdraw the
bucket, and the other ends wait longer for it. All light ends together overdraw it by at most a quarter of the
rate. So the rate holds, bulk does not delay small messages, and many small messages do not stop other ends.
"""

from __future__ import annotations

import math
from typing import Callable, Optional
from weakref import WeakValueDictionary

BURST = 0.2  # seconds of the rate that an idle bucket collects
DEBT = 0.05  # seconds of the rate: the most by which light ends may overdraw a bucket at once
TICK = 0.01  # seconds between two rounds of resuming
LIGHT_SHARE = 4  # all light ends together overdraw a bucket by at most the rate divided by this
SMALLEST_READ = 512  # bytes
TAKEN_SHARE = 8  # while no end waits, an end may take the tokens divided by this in advance
MOST_TAKEN = 1 << 20  # bytes: the maximum that an end takes in advance
RESUMED_READ = 2048  # bytes: only as many ends are resumed as can each read this much


class _Address:
    """The ends of one address that wait for a bucket."""

    __slots__ = ("_ends", "waiting")

    def __init__(self) -> None:
        # Ends that wait (True), or were just resumed and keep their place (False), in order of their turns.
        self._ends: dict[EndRate, bool] = {}
        self.waiting = 0

    def wait(self, end: EndRate) -> None:
        """Resume `end` when its turn comes."""
        self.waiting += not self._ends.get(end, False)
        self._ends[end] = True

    def forget(self, end: EndRate) -> None:
        """Forget an end that has closed."""
        self.waiting -= self._ends.pop(end, False)

    def resume(self, tokens: float) -> None:
        """Resume the ends that may read again, each with its share of the tokens."""
        count, share = self.waiting, math.inf
        if tokens < math.inf:
            count = min(count, math.ceil(tokens / RESUMED_READ))
            share = max(SMALLEST_READ, tokens / count)
        left = self.waiting - count
        for _ in range(len(self._ends)):
            if self.waiting == left:
                break
            end = next(iter(self._ends))
            if self._ends.pop(end):
                self.waiting -= 1
                self._ends[end] = False
                end.grant(share)


class Bucket:
    """The tokens of all tunnels, or of one key.

    Args:
        rate: bytes a second; None for no limit.
        now: seconds.
    """

    __slots__ = ("__weakref__", "_addresses", "_updated", "light", "rate", "shared", "tokens")

    def __init__(self, rate: Optional[float], now: float) -> None:
        self.rate = rate
        self.shared = False  # ends wait, or did at the last tick: each reads only what it is granted
        self.tokens = 0.0
        self.light = 0.0  # bytes by which light ends may overdraw it
        self._addresses: dict[str, _Address] = {}  # in the order of their turns
        self._updated = now

    def competitors(self, address: str) -> int:
        """Return the number of waiting addresses plus that of waiting ends of `address`."""
        own = self._addresses.get(address)
        return len(self._addresses) + (own.waiting if own is not None else 0)

    def change_rate(self, rate: Optional[float], now: float) -> None:
        """Change the rate; waiting ends are resumed at the next tick."""
        if rate != self.rate:
            self.rate = rate
            self.tokens = 0.0
            self._updated = now

    def refill(self, rate: float, now: float) -> float:
        """Add the tokens for the time since the last call; return how many there are."""
        seconds, self._updated = now - self._updated, now
        self.tokens = min(rate * BURST, self.tokens + seconds * rate)
        self.light = min(rate * DEBT, self.light + seconds * rate / LIGHT_SHARE)
        return self.tokens

    def take(self, size: int, light: bool) -> None:
        """Take tokens, or return them if `size` is negative.

        Args:
            size: bytes.
            light: whether a light end takes them, so that what it overdraws counts.
        """
        overdrawn = min(0.0, self.tokens)
        self.tokens -= size
        if light:
            self.light += min(0.0, self.tokens) - overdrawn

    def wait(self, end: EndRate) -> None:
        """Resume `end` at the next tick for which there are tokens."""
        self._addresses.setdefault(end.address, _Address()).wait(end)
        self.shared = True

    def forget(self, end: EndRate) -> None:
        """Forget an end that has closed, so that those behind it do not wait for its turn."""
        address = self._addresses.get(end.address)
        if address is not None:
            address.forget(end)

    def resume_waiting(self, now: float) -> bool:
        """Resume the ends that may read again, each with its share; return whether any waited."""
        tokens = math.inf if self.rate is None else self.refill(self.rate, now)
        if tokens <= 0.0:
            return self.shared
        count = sum(address.waiting > 0 for address in self._addresses.values())
        self.shared = count > 0
        if tokens < math.inf:
            count = min(count, math.ceil(tokens / RESUMED_READ))
        share = tokens / count if count else 0.0
        for name in list(self._addresses):
            if not count:
                break
            address = self._addresses.pop(name)
            if address.waiting:
                count -= 1
                self._addresses[name] = address
                address.resume(share)
        if not self.shared:
            self._addresses.clear()
        return self.shared


class Rates:
    """The rates of a relay, or of one of its worker processes.

    Args:
        clock: returns the loop's time in seconds.
        rate: bytes a second for all tunnels; None for no limit.
        rate_per_key: bytes a second for the tunnels of each key; None for no limit.
    """

    def __init__(
        self, clock: Callable[[], float], rate: Optional[float], rate_per_key: Optional[float]
    ) -> None:
        self._clock = clock
        self._rate_per_key = rate_per_key
        self._all = Bucket(rate, clock())
        self._of_key: WeakValueDictionary[bytes, Bucket] = WeakValueDictionary()
        self._busy: dict[Bucket, None] = {}  # an end waits for them, or did at the last tick
        self._next_tick = math.inf

    def change(self, rate: Optional[float], rate_per_key: Optional[float]) -> None:
        """Change the rates, including those of existing tunnels."""
        now = self._clock()
        self._rate_per_key = rate_per_key
        self._all.change_rate(rate, now)
        for bucket in self._of_key.values():
            bucket.change_rate(rate_per_key, now)

    def end(self, address: str, source: bytes, sink: bytes, resume: Callable[[], None]) -> EndRate:
        """Return the rate of a tunnel end.

        Args:
            address: the address whose connection is read; addresses share a rate equally.
            source: the key whose connection is read.
            sink: the key at the other end.
            resume: called when the end may be read again.
        """
        buckets = [self._all, self._bucket_of(source)]
        if sink != source:
            buckets.append(self._bucket_of(sink))
        return EndRate(self, address, buckets, resume, self._clock)

    def wait(self, end: EndRate, bucket: Bucket) -> None:
        """Resume `end` once `bucket` has tokens."""
        bucket.wait(end)
        self._busy[bucket] = None
        if self._next_tick == math.inf:
            self._next_tick = self._clock() + TICK

    def next_time(self) -> float:
        """Return when `resume_waiting` has something to do."""
        return self._next_tick

    def resume_waiting(self) -> None:
        """Resume ends for which there are tokens; called in every round of the loop."""
        if self._next_tick == math.inf or self._clock() < self._next_tick:
            return
        now = self._clock()
        for bucket in list(self._busy):
            if not bucket.resume_waiting(now):
                del self._busy[bucket]
        self._next_tick = now + TICK if self._busy else math.inf

    def _bucket_of(self, key: bytes) -> Bucket:
        bucket = self._of_key.get(key)
        if bucket is None:
            bucket = self._of_key[key] = Bucket(self._rate_per_key, self._clock())
        return bucket


class EndRate:
    """How fast one end of a tunnel may be read.

    While tokens are plentiful, it takes some in advance, so most reads skip the buckets. When tokens are
    scarce, it returns at once what was not read.

    Args:
        rates: resumes the end.
        address: the address whose connection is read.
        buckets: the buckets that must all have tokens.
        resume: called when it may be read again.
        clock: returns the loop's time in seconds.
    """

    __slots__ = (
        "_buckets",
        "_clock",
        "_credit",
        "_granted",
        "_light",
        "_rates",
        "_resume",
        "_scarce",
        "_taken",
        "_updated",
        "address",
    )

    def __init__(
        self,
        rates: Rates,
        address: str,
        buckets: list[Bucket],
        resume: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.address = address
        self._resume = resume
        self._rates = rates
        self._buckets = buckets
        self._clock = clock
        self._taken = 0  # bytes that it has taken tokens for but not read
        self._scarce = False  # what was taken last is returned unless it is read
        self._granted = 0.0  # bytes that it may take while others wait
        self._light = False  # what was taken last is overdrawn
        self._credit = float(SMALLEST_READ)  # bytes that it may read while light
        self._updated = clock()

    def allow(self, most: int, least: int = SMALLEST_READ) -> int:
        """Return how many bytes may be read now, up to `most`; 0 if fewer than `least` are allowed.

        After 0, `resume` is called later; the tokens taken so far are kept.
        """
        while self._taken < min(most, least):
            allowed = self._take(most)
            if not allowed or self._taken < allowed:  # it must wait, or there is no rate
                return allowed
        return min(most, self._taken)

    def count(self, size: int) -> None:
        """Count bytes that were read."""
        self._taken = max(0, self._taken - size)  # without a rate, nothing was taken
        if self._scarce:
            self._scarce = False
            self._pay(-self._taken)

    def end(self) -> None:
        """Return what was taken in advance, and stop waiting: the tunnel has ended."""
        self._pay(-self._taken)
        for bucket in self._buckets:
            bucket.forget(self)

    def grant(self, size: float) -> None:
        """Grant the end its share, and resume it."""
        self._granted = size if size < math.inf else 0.0  # a removed limit grants nothing from another bucket
        self._resume()

    def _take(self, most: int) -> int:
        """Take tokens, more than needed if they are plentiful; return how many bytes may be read."""
        now = self._clock()
        allowed = math.inf
        self._light = False
        for bucket in self._buckets:
            rate = bucket.rate
            if rate is None:
                continue
            tokens = bucket.refill(rate, now)
            own = self._granted if bucket.shared else tokens / TAKEN_SHARE
            if tokens <= 0 or (bucket.shared and own < 1):
                self._scarce = True
                own = self._light_credit(bucket, rate, now)
                if not own:
                    self._rates.wait(self, bucket)
                    return 0
                self._light = True
            self._scarce |= bucket.shared
            allowed = min(allowed, max(own, SMALLEST_READ))
        if allowed == math.inf:
            self._taken = 0
            return most
        self._pay(int(min(allowed, MOST_TAKEN)))
        return min(most, self._taken)

    def _pay(self, size: int) -> None:
        """Take tokens for `size` bytes, or return them if it is negative."""
        for bucket in self._buckets:
            if bucket.rate is not None:
                bucket.take(size, self._light)
        self._credit -= size
        self._granted -= size
        self._taken += size

    def _light_credit(self, bucket: Bucket, rate: float, now: float) -> float:
        """Return how much of an empty bucket the end may overdraw, because it has used little lately."""
        credit_rate = rate / (LIGHT_SHARE * (LIGHT_SHARE + bucket.competitors(self.address)))
        most = max(SMALLEST_READ, credit_rate)
        credit = max(-most, self._credit) + (now - self._updated) * credit_rate
        self._credit = min(most, credit)
        self._updated = now
        return self._credit if self._credit >= SMALLEST_READ and bucket.light > 0 else 0.0
