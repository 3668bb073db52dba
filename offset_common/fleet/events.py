"""The events that the directory reports to the host."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from offset_common.fleet.entries import Claim, Host


class Claimed(NamedTuple):
    """Other hosts find our new listener of `key`, or never will while the directory refuses entries."""

    key: bytes


class Lost(NamedTuple):
    """Another host has a newer listener of `key`: ours must end."""

    key: bytes


class Replaced(NamedTuple):
    """Our listener of `key` has replaced the one of another host, which should learn about it.

    Args:
        key: of both listeners.
        host: the id of the host that had it.
        claim: ours.
    """

    key: bytes
    host: str
    claim: Claim


class Found(NamedTuple):
    """The answer to a question.

    Args:
        number: of the question.
        host: the home, or the host that was asked for; None where there is none or the directory is away.
        here: whether the home is this host.
    """

    number: int
    host: Optional[Host] = None
    here: bool = False


class Away(NamedTuple):
    """The directory does not answer: this host goes on alone."""

    reason: str


class Present(NamedTuple):
    """The directory answers, and this host is in it."""


class Refused(NamedTuple):
    """The directory answers, but refuses to store new entries."""

    reason: str


class Accepted(NamedTuple):
    """The directory stores entries again."""


Event = Union[Claimed, Lost, Replaced, Found, Away, Present, Refused, Accepted]
