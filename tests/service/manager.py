"""A service manager: the socket that a relay notifies."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from pathlib import Path
from typing import NamedTuple

from tests.support.process import PATIENCE

_CREDENTIALS = struct.Struct("iii")


class Message(NamedTuple):
    """One datagram: the process that sent it, and its fields."""

    pid: int
    fields: dict[str, str]


class Manager:
    """Receives notifications.

    Args:
        address: a path, or an abstract name that begins with @.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[Message] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        with contextlib.suppress(FileNotFoundError):
            Path(self.address).unlink()

    def prefix(self, **variables: str) -> list[str]:
        """Return the prefix of a command line that is to notify this manager."""
        given = {"NOTIFY_SOCKET": self.address, **variables}
        return ["env", *(f"{name}={value}" for name, value in given.items())]

    def wait_for(self, field: str, value: str = "", seconds: float = PATIENCE) -> Message:
        """Return the next message that has a field, with a value if one is given."""
        deadline = time.monotonic() + seconds
        while True:
            message = self.next(deadline - time.monotonic())
            if field in message.fields and value in ("", message.fields[field]):
                return message

    def next(self, seconds: float = PATIENCE) -> Message:
        """Return the next message.

        Raises:
            socket.timeout: there is none in time.
        """
        self._sock.settimeout(max(0.001, seconds))
        data, ancillary, _, _ = self._sock.recvmsg(65536, socket.CMSG_SPACE(_CREDENTIALS.size))
        pid, _, _ = _CREDENTIALS.unpack(ancillary[0][2][: _CREDENTIALS.size])
        fields = dict(line.split("=", 1) for line in data.decode().splitlines())
        self.messages.append(Message(pid, fields))
        return self.messages[-1]

    def fill(self) -> None:
        """Leave no room for more messages."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.sendto(b"X=1", self.address)
