"""Why a check of a relay failed, and what to look at: an entry for each thing that goes wrong."""

from __future__ import annotations

import enum
import errno
import os
from typing import NamedTuple, Optional

from offset_common.channel.handshake import WrongPeerError
from offset_common.client.dialing import Step
from offset_common.errors import ConnectError, OffsetError, VersionError
from offset_common.identity import encode_key
from offset_common.tickets import RelayTicket
from offset_common.wire.frames import OldPeerError


class Cause(str, enum.Enum):
    """What went wrong, for a program; the values are part of `relay-check --json`."""

    NAME = "name does not resolve"
    NOTHING_LISTENS = "nothing listens"
    NO_ANSWER = "no answer"
    UNREACHABLE = "unreachable"
    NOT_A_RELAY = "not an Offset relay"
    OLDER_PROTOCOL = "older protocol"
    OTHER_PROTOCOL = "other protocol version"
    WRONG_KEY = "wrong key"
    NOT_PROVEN = "key not proven"
    ENDED = "connection ended"
    NOT_ANNOUNCED = "connect not announced"
    NO_MESSAGE = "message did not come"


class Failure(NamedTuple):
    """A failed step, for a person.

    Args:
        step: its name.
        cause: what went wrong.
        reason: one sentence without a full stop.
        advice: what to look at.
    """

    step: str
    cause: Cause
    reason: str
    advice: str


def explain(step: str, error: Exception, ticket: RelayTicket) -> Failure:
    """Find out what an error in a step means.

    Args:
        step: the name of the step.
        error: an OffsetError, or a TimeoutError of a message that did not come.
        ticket: of the relay.
    """
    if isinstance(error, ConnectError):
        cause = _cause_on_the_way(error)
        reason = error.reason
        peer = error.__cause__
        if isinstance(peer, WrongPeerError):
            reason = _wrong_key(peer, ticket)
    else:
        cause = Cause.ENDED if isinstance(error, OffsetError) else Cause.NO_MESSAGE
        reason = str(error)
    advice = _ADVICE[cause].format(host=ticket.address.host, port=ticket.address.port)
    return Failure(step, cause, reason, advice)


def not_announced(step: str, seconds: float, ticket: RelayTicket) -> Failure:
    """The failure of a connect of which the listener is not told.

    Args:
        step: the name of the step.
        seconds: how long it was tried.
        ticket: of the relay.
    """
    reason = f"the relay at {ticket.address} did not announce the connect to the listener in {seconds:g} s"
    return Failure(step, Cause.NOT_ANNOUNCED, reason, _ADVICE[Cause.NOT_ANNOUNCED])


def _cause_on_the_way(error: ConnectError) -> Cause:
    if error.step == Step.NAME:
        return Cause.NAME
    if error.step == Step.TCP:
        return _tcp_cause(error.reason)
    peer = error.__cause__
    if error.step == Step.VERSION:
        return _version_cause(peer)
    if isinstance(peer, WrongPeerError):
        return Cause.WRONG_KEY
    if error.step == Step.HANDSHAKE and not isinstance(peer, OSError):
        return Cause.NOT_PROVEN
    return Cause.ENDED


def _tcp_cause(reason: str) -> Cause:
    # The dialing tells the system's own words, or that the time was over.
    if os.strerror(errno.ECONNREFUSED) in reason:
        return Cause.NOTHING_LISTENS
    if "no answer" in reason or os.strerror(errno.ETIMEDOUT) in reason:
        return Cause.NO_ANSWER
    return Cause.UNREACHABLE


def _version_cause(peer: Optional[BaseException]) -> Cause:
    if isinstance(peer, OldPeerError):
        return Cause.OLDER_PROTOCOL
    if isinstance(peer, VersionError) and str(peer).startswith("protocol version"):
        return Cause.OTHER_PROTOCOL
    if isinstance(peer, ConnectionError):
        return Cause.ENDED
    return Cause.NOT_A_RELAY


def _wrong_key(error: WrongPeerError, ticket: RelayTicket) -> str:
    return (
        f"the relay at {ticket.address} has another identity: it says that its key is"
        f" {encode_key(error.found)}, and the ticket's is {encode_key(error.expected)}"
    )


_ADVICE = {
    Cause.NAME: "is {host} spelled as its owner says, and does this machine's DNS resolve other names?",
    Cause.NOTHING_LISTENS: (
        "the machine answers, but no program has port {port}: does the relay run, is {port} the port of its"
        " --laddr, and does the router, if there is one, pass the port on to the right machine?"
    ),
    Cause.NO_ANSWER: (
        "is {host} still the relay's address, and does each firewall on the way let TCP to port {port} in?"
        " Behind a router, the port must be passed on; and many routers do not let their own network in"
        " by the public address: then check from elsewhere"
    ),
    Cause.UNREACHABLE: "has this machine a way to {host} at all? Other addresses on the internet may tell",
    Cause.NOT_A_RELAY: (
        "port {port} is probably another program's, such as a web server: compare it with the"
        " relay's --laddr."
        " A relay with no connection left for this machine may look the same"
    ),
    Cause.OLDER_PROTOCOL: (
        "the relay is of a release before 0.1.3, which nodes of today cannot use: it needs a newer one"
    ),
    Cause.OTHER_PROTOCOL: "the relay is made for other nodes than those of today: which release is it?",
    Cause.WRONG_KEY: (
        "is this the relay's newest ticket? If the relay is yours, make a ticket from the identity file that"
        " it runs with (stmgr.py relay-ticket), or start it with the identity that the ticket was made from."
        " If neither fits, something else answers at this address: do not trust it"
    ),
    Cause.NOT_PROVEN: (
        "whatever answers at {host} does not speak the relay's protocol to the end: does something on the"
        " way change what passes, such as a proxy?"
    ),
    Cause.ENDED: (
        "the relay hung up: its log has a line with the reason. It may have no connection left, in all or"
        " for this machine's address, or be about to stop; or a proxy on the way cuts connections off"
    ),
    Cause.NOT_ANNOUNCED: (
        "listening and connecting are both possible, but they do not meet: is there more than one relay"
        " behind the address, as behind a load balancer?"
    ),
    Cause.NO_MESSAGE: (
        "the tunnel is there and nothing passes: the relay's log, and its machine's load, may tell why"
    ),
}
