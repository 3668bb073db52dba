"""Explain why a step of a relay check failed, and what the user can check."""

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
from offset_common.tools.terminal import Style, styled
from offset_common.wire.frames import OldPeerError


class Cause(str, enum.Enum):
    """The kinds of failures. The values are part of the `relay-check --json` format."""

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
    SOME_ADDRESSES = "some addresses do not work"


class NotAnnouncedError(TimeoutError):
    """The relay did not announce a connect to the listener."""


class Failure(NamedTuple):
    """A failed step.

    Args:
        step: its name.
        cause: the kind of failure.
        reason: one sentence without a full stop.
        advice: what the user can check, without a full stop.
    """

    step: str
    cause: Cause
    reason: str
    advice: str


def explain(step: str, error: Exception, ticket: RelayTicket) -> Failure:
    """Return the cause of an error, with a reason and advice.

    Args:
        step: the name of the step.
        error: an OffsetError, or the TimeoutError of a message that did not arrive.
        ticket: the relay's ticket.
    """
    reason = str(error)
    if isinstance(error, ConnectError):
        cause = _connect_cause(error)
        if isinstance(error.__cause__, WrongPeerError):
            reason = _wrong_key(error.__cause__, ticket)
    elif isinstance(error, NotAnnouncedError):
        cause = Cause.NOT_ANNOUNCED
    else:
        cause = Cause.ENDED if isinstance(error, OffsetError) else Cause.NO_MESSAGE
    advice = _ADVICE[cause].format(host=ticket.address.host, port=ticket.address.port)
    return Failure(step, cause, reason, advice)


def outcome_lines(failure: Optional[Failure], colour: bool) -> list[str]:
    """Return the last lines of a check: success, or the failure with its reason and advice."""
    if failure is None:
        return [styled("the relay works", Style.GOOD, colour)]
    return [
        f"  {styled('FAILED', Style.BAD, colour)}  {failure.step}",
        f"what happened: {failure.reason}",
        f"what to check: {failure.advice}",
    ]


def _connect_cause(error: ConnectError) -> Cause:
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
    # The reason is the system's error text, or "no answer" after the timeout.
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
        f"the relay at {ticket.address} has another identity: its key is"
        f" {encode_key(error.found)}, but the key in the ticket is {encode_key(error.expected)}"
    )


_ADVICE = {
    Cause.NAME: "check the spelling of {host}, and whether this machine can resolve other names",
    Cause.NOTHING_LISTENS: (
        "the machine answers, but no program listens on port {port}: check that the relay is running, that"
        " its --laddr has port {port}, that no firewall rejects it, and that a router in between forwards the"
        " port to the right machine"
    ),
    Cause.NO_ANSWER: (
        "check that {host} is still the relay's address, that all firewalls in between allow TCP to port"
        " {port}, and that its router forwards the port. Many routers do not forward connections from their"
        " own network to their public address: in that case, run this check from another network"
    ),
    # Some firewalls, such as firewalld, reject connections with this error.
    Cause.UNREACHABLE: (
        "check whether this machine has a route to {host} and can reach other hosts, and whether a firewall"
        " here or there rejects connections to port {port}"
    ),
    Cause.NOT_A_RELAY: (
        "another program, such as a web server, probably uses port {port}: compare it with the relay's"
        " --laddr. A relay that is at its connection limit for this machine can look the same"
    ),
    Cause.OLDER_PROTOCOL: "the relay is older than release 0.1.3, and current nodes cannot use it: update it",
    Cause.OTHER_PROTOCOL: "the relay's release does not work with current nodes: check which one it is",
    Cause.WRONG_KEY: (
        "check that this is the relay's newest ticket. If the relay is yours, make a new ticket from the"
        " identity file that it uses (stmgr.py relay-ticket), or start it with the identity file that the"
        " ticket was made from. Otherwise another program answers at this address: do not trust it"
    ),
    Cause.NOT_PROVEN: (
        "the program at {host} does not complete the handshake: check whether something in between, such as"
        " a proxy, changes the data"
    ),
    Cause.ENDED: (
        "the relay closed the connection: its log has a line with the reason. It may be at its connection"
        " limit, in total or for this address, or stopping; or its monthly quota is used up; or a proxy in"
        " between closes connections; or it has an access file that does not allow the keys of this check:"
        " give an allowed one with --idfile"
    ),
    Cause.NOT_ANNOUNCED: (
        "listening and connecting both work, but not together: check whether the name leads to more than"
        " one relay, for example through a load balancer. Hosts behind one name must be a fleet"
        " (docs/fleet.md), and each of them must reach the directory and all other hosts. Or the relay's"
        " monthly quota is used up: its log says so. Or it has an access file that does not allow the keys of"
        " this check: give an allowed one with --idfile"
    ),
    Cause.NO_MESSAGE: (
        "the tunnel exists but no data passes: check the relay's log and the load of its machine"
    ),
}
