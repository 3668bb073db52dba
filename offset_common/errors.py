"""The exceptions of the project.

    OffsetError
    ├── OperatorError           the operator can fix it; one line on stderr, non-zero exit status
    │   ├── UsageError          the command line is invalid                       (status 2)
    │   ├── FileError           a file cannot be read, parsed or written          (status 1)
    │   └── ServiceError        the operating system refuses: port in use, limits (status 1)
    ├── LocalProtocolError      this side broke the protocol: a bug
    ├── PeerError               the peer broke the protocol; its connection is closed
    │   ├── FrameError          an invalid frame length, or a peer older than 0.1.3
    │   ├── DecodeError         bytes that are not a valid message
    │   ├── VersionError        another protocol version, or not an Offset peer
    │   ├── HandshakeError      an identity that is not proven, or not the expected one
    │   ├── DecryptionError     a ciphertext that is not the next valid one
    │   ├── RekeyError          too many rekeys, or one with a key of small order
    │   └── SilenceError        a timeout: nothing received, or an overdue protocol step
    └── ConnectionEnded         a client's connection through the relay was closed
        ├── ConnectError        it could not be established
        │   ├── RelayUnreachable    the relay does not answer, or closes the connection before the handshake
        │   ├── WrongRelay          the program at the address is not the relay of the ticket
        │   ├── ConnectRefused      nobody listens for that key, or the listener rejected the connect
        │   └── NotAccepted         the other node did not accept the connect in time
        └── ConnectionLost      it ended early; messages may be missing

Any exception outside this tree is a bug. No exception text contains a private key or a payload.
"""

from __future__ import annotations

import errno
import os
from typing import Any


class OffsetError(Exception):
    """The base class of every exception that this project raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, a copy is made from the text alone, and some subclasses need other arguments. A process
        # pool that cannot unpickle an exception hangs or breaks.
        return _restore, (type(self), self.args), vars(self)


class OperatorError(OffsetError):
    """An error that the user of the command line can fix."""

    exit_status = 1


class UsageError(OperatorError):
    """The command line, or a value on it, is invalid."""

    exit_status = 2


class FileError(OperatorError):
    """A file cannot be read, parsed or written.

    Args:
        path: the file, as given on the command line.
        reason: one clause without a full stop.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class ServiceError(OperatorError):
    """The operating system refuses a resource that the program needs."""


class LocalProtocolError(OffsetError):
    """This side tried something that the protocol does not allow."""


class PeerError(OffsetError):
    """The peer broke the protocol. Only its own connection is closed."""

    def name_layer(self, layer: str) -> None:
        """Prefix the text with the name of the layer on which this happened."""
        self.args = (f"{layer}: {self}",)


class FrameError(PeerError):
    """A frame is over the size limit, or in the 4-byte form of a peer older than 0.1.3."""


class DecodeError(PeerError):
    """Bytes are not a valid message."""


class VersionError(PeerError):
    """The peer uses a different protocol version, or is not an Offset peer."""


class HandshakeError(PeerError):
    """The peer did not prove its identity, or is not the expected one."""


class DecryptionError(PeerError):
    """A ciphertext is too short, out of order, or fails authentication."""


class RekeyError(PeerError):
    """The peer starts rekeys too often, or with a key of small order."""


class SilenceError(PeerError):
    """The peer sent nothing, or did not complete a protocol step, before the timeout."""


class ConnectionEnded(OffsetError):
    """A connection through the relay was closed by the relay, the other node or this program."""


class ConnectError(ConnectionEnded):
    """A connection could not be established.

    Args:
        step: the step that failed, a client.dialing.Step.
        reason: one sentence without a full stop.
    """

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(reason)
        self.step = step
        self.reason = reason


class RelayUnreachable(ConnectError):
    """The relay does not answer, or closes the connection before the handshake is complete; try later."""


class WrongRelay(ConnectError):
    """The program at the relay's address is not a relay, or its key is not the one in the ticket."""


class ConnectRefused(ConnectError):
    """The relay closed a connect early: nobody listens for that key, or the listener rejected the connect.

    The relay gives no reason, and a listener may reject a connect as fast as the relay closes one without
    a listener. So a client cannot tell the two apart.
    """


class NotAccepted(ConnectError):
    """A connect was not accepted in time."""


class ConnectionLost(ConnectionEnded):
    """A connection ended early: messages sent or received last may be missing."""


def _restore(kind: type[OffsetError], args: tuple[Any, ...]) -> OffsetError:
    """Return an exception with these `args`, without calling its constructor."""
    return kind.__new__(kind, *args)


def quote(text: str) -> str:
    """Return a wrong text for an error message: in quotes, and cut if it is long."""
    return repr(text if len(text) <= _QUOTED else text[:_QUOTED] + "...")


def os_error_sentence(error: OSError) -> str:
    """Return what an operating system error means and what to do, without its number and file name."""
    if error.errno in _OS_ERRORS:
        return _OS_ERRORS[error.errno]
    text = os.strerror(error.errno) if error.errno is not None else str(error)
    return text[:1].lower() + text[1:]


UNREPLACED_TILDE = "only a shell replaces ~, and only at the start of a word; write the whole path"


def missing_sentence(path: str, sentence: str) -> str:
    """Return a sentence about a missing file or directory, or why a path with `~` leads to none."""
    return UNREPLACED_TILDE if path.startswith("~") else sentence


def listen_error_sentence(error: OSError, port: int) -> str:
    """Return why a program cannot listen on an address, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return "another program has this port; stop it, or choose another port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"this user may not use port {port}; choose one from 1024 up, "
            "or allow it with CAP_NET_BIND_SERVICE"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        # Not 0.0.0.0: a status page or a forwarded port may be for this host only.
        return "this host has no such address; choose one of those that `ip address` lists"
    return os_error_sentence(error)


_QUOTED = 60  # characters

_OS_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space and try again",
    getattr(errno, "EDQUOT", -1): "your disk quota is used up; free some space and try again",
    errno.EFBIG: "the file size limit is reached; raise it with ulimit -f",
    errno.EROFS: "the file system is read-only; choose another directory",
    errno.EIO: "the device failed (input/output error); check the disk or the terminal",
    errno.EMFILE: "this process has too many open files; raise the limit with ulimit -n",
    errno.ENFILE: "the system has too many open files; close some programs",
    errno.ENOMEM: "the system has too little memory; close some programs",
    errno.ENAMETOOLONG: "the file name is too long; choose a shorter one",
    errno.ENOTDIR: "a part of the path is a file, not a directory; check the path",
    errno.ELOOP: "symbolic links form a loop; check the path",
    errno.ENXIO: "this is a socket or a device that cannot be read; give a regular file",
}
