"""The exceptions of the project.

    OffsetError
    ├── PersonError             what a person can mend; one line, then a non-zero status
    │   ├── UsageError          the command line cannot mean anything         (status 2)
    │   ├── FileError           a file cannot be read, understood or written  (status 1)
    │   └── ServiceError        the system says no: address in use, no right  (status 1)
    ├── LocalProtocolError      we broke our own rules: a bug on this side
    ├── PeerError               the other side broke the protocol: ends its connection
    │   ├── FrameError          a length that no frame may have, or an old peer
    │   ├── DecodeError         bytes that are not the message they should be
    │   ├── VersionError        another protocol version, or not Offset at all
    │   ├── HandshakeError      an identity that is not proven, or not the expected one
    │   ├── DecryptionError     a message that is not the next one under the key
    │   ├── RekeyError          more rekeys than a peer could need
    │   └── SilenceError        nothing heard, or a step not done, for too long
    └── ConnectionEnded         a node's connection through the relay is over
        ├── ConnectError        it was never made: a step on the way failed
        └── ConnectionLost      it was cut off, where an end in order would have told so

Any exception outside this tree is a bug. No exception carries a key or a payload in its text.
"""

from __future__ import annotations


class OffsetError(Exception):
    """The root of every exception that this project raises on purpose."""


class PersonError(OffsetError):
    """Something that the person at the command line can mend."""

    exit_status = 1


class UsageError(PersonError):
    """The command line cannot mean anything."""

    exit_status = 2


class FileError(PersonError):
    """A file cannot be read, understood or written.

    Args:
        path: the file, as the person named it.
        reason: one clause without a full stop, for a person.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class ServiceError(PersonError):
    """The operating system refuses what the service needs, and the text says what to do."""


class LocalProtocolError(OffsetError):
    """This side tried something that the protocol does not allow: a bug on this side."""


class PeerError(OffsetError):
    """The other side broke the protocol; its connection ends, and nothing else does."""


class FrameError(PeerError):
    """A frame that cannot be: over the limit, or in the four-byte form of an old peer."""


class DecodeError(PeerError):
    """Bytes that are not the message they should be."""


class VersionError(PeerError):
    """The peer speaks another protocol version, or is not an Offset peer."""


class HandshakeError(PeerError):
    """The peer did not prove the identity that it has, or has another than expected."""


class DecryptionError(PeerError):
    """An encrypted message is too short, out of order, or not encrypted under the channel's key."""


class RekeyError(PeerError):
    """The peer asks for new keys more often than any peer needs."""


class SilenceError(PeerError):
    """The peer was silent, or owed a step of the protocol, for longer than it may."""


class ConnectionEnded(OffsetError):
    """A connection through the relay is over: the relay or the other node ended it."""


class ConnectError(ConnectionEnded):
    """A connection was not made.

    Args:
        step: the step on the way that failed, one of client.dialing.Step.
        reason: one sentence without a full stop, for a person.
    """

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(reason)
        self.step = step
        self.reason = reason


class ConnectionLost(ConnectionEnded):
    """A connection was cut off: what was sent or received last may be missing."""
