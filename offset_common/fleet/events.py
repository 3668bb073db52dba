"""The events that directory.py reports to the host."""

from __future__ import annotations

from typing import NamedTuple, Optional, Union

from offset_common.fleet.entries import Claim, Host


class Claimed(NamedTuple):
    """Other hosts can find this host's new listener of `key`, or the directory has refused its claim."""

    key: bytes


class Lost(NamedTuple):
    """Another host has a newer listener of `key`: the one here must end."""

    key: bytes


class Replaced(NamedTuple):
    """The listener of `key` here has replaced one at another host, which must be told.

    Args:
        key: the key of both listeners.
        host: the id of the other host.
        claim: the claim of this host.
    """

    key: bytes
    host: str
    claim: Claim


class Found(NamedTuple):
    """The answer to a question.

    Args:
        number: the number of the question.
        host: the home, or the host that was asked for; None if there is none or the directory is unreachable.
        here: whether the home is this host.
    """

    number: int
    host: Optional[Host] = None
    here: bool = False


class Away(NamedTuple):
    """The directory does not answer: this host continues alone."""

    reason: str


class Present(NamedTuple):
    """The directory answers, and this host is in it."""


class Refused(NamedTuple):
    """The directory answers, but refuses to store new entries."""

    reason: str


class Accepted(NamedTuple):
    """The directory stores entries again."""


FleetEvent = Union[Claimed, Lost, Replaced, Found, Away, Present, Refused, Accepted]
