"""Connect a TCP connection to a tunnel.

A tunnel carries messages, and closing it closes both directions. A TCP connection carries bytes, and each
direction is closed separately. So the first byte of every message is its type:

    0 DATA  bytes of the TCP connection, in order
    1 END   the TCP side was half-closed: no more data in this direction

A side that has sent and received END closes the tunnel. If a tunnel closes without END in both
directions, a node, a network or the relay interrupted it. The TCP connection is then reset, so that a
truncated file never looks complete. The relay cannot forge an END, because the tunnel is end to end.

Each direction has a thread, which reads no more than it can forward:

    TCP --> _send    --> tunnel    blocks while the tunnel's queue is full
    TCP <-- _receive <-- tunnel    blocks while the TCP peer does not read
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import suppress
from typing import Optional

from offset_common.client import Tunnel
from offset_common.errors import DecodeError, OffsetError

DATA = 0
END = 1
CHUNK_SIZE = 64 * 1024  # bytes of TCP in one message, at most
LINGER_NONE = struct.pack("ii", 0, 0)  # close() delivers pending bytes
LINGER_RESET = struct.pack("ii", 1, 0)  # close() resets the connection


class Bridge:
    """A TCP connection and its tunnel.

    Args:
        sock: the TCP connection, prepared by `prepare`; `run` closes it.
        tunnel: an end-to-end tunnel; `run` closes it.
    """

    def __init__(self, sock: socket.socket, tunnel: Tunnel) -> None:
        self._sock = sock
        self._tunnel = tunnel
        self._lock = threading.Lock()
        self._end_sent = False
        self._end_received = False
        self._failure: Optional[str] = None
        self._sent = self._received = 0  # bytes of TCP
        self.finished = threading.Event()

    def run(self) -> str:
        """Forward bytes in both directions until the end; return a summary for the log."""
        sender = threading.Thread(target=self._send, daemon=True)
        sender.start()
        self._receive()
        sender.join()
        if self._failure is None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        self._sock.close()
        self._tunnel.close()
        self.finished.set()
        how = "ended" if self._failure is None else f"cut off: {self._failure}"
        return f"{how} ({self._sent} bytes to the peer, {self._received} from it)"

    def wait_until_gone(self) -> None:
        """Wait until the tunnel has no thread and no descriptor any more; the client bounds this time."""
        self._tunnel.close(timeout=None)

    def cut_off(self, reason: str) -> None:
        """Close both connections without END; `run` then returns."""
        with self._lock:
            self._failure = self._failure or reason
        self._tunnel.close(timeout=0)
        # This wakes `recv` but sends nothing: the TCP peer must see a reset, not an orderly end.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def _send(self) -> None:
        try:
            self._forward_to_tunnel()
        except (OSError, OffsetError) as error:
            self.cut_off(reason_of(error))

    def _forward_to_tunnel(self) -> None:
        message = memoryview(bytearray(1 + CHUNK_SIZE))
        message[0] = DATA
        while True:
            size = self._sock.recv_into(message[1:])
            if self._failure is not None:
                return
            if not size:
                break
            self._tunnel.send(message[: 1 + size])
            self._sent += size
        # Set before the send: the peer may close the tunnel as soon as it receives the END.
        self._end_sent = True
        self._tunnel.send(bytes([END]))

    def _receive(self) -> None:
        try:
            # Continue after the peer's END: only `receive` reports that the tunnel was closed.
            while not (self._end_sent and self._end_received):
                self._forward_to_socket(self._tunnel.receive())
        except (OSError, OffsetError) as error:
            if not (self._end_sent and self._end_received):
                self.cut_off(reason_of(error))

    def _forward_to_socket(self, message: bytes) -> None:
        kind = message[0] if message else None
        if self._end_received or kind not in (DATA, END) or (kind == END and len(message) > 1):
            raise DecodeError("the peer sent an invalid message; check that it runs forward.py")
        if kind == DATA:
            self._sock.sendall(memoryview(message)[1:])
            self._received += len(message) - 1
        else:
            self._sock.shutdown(socket.SHUT_WR)
            self._end_received = True


def prepare(sock: socket.socket) -> None:
    """Prepare a TCP connection for a bridge.

    Until `Bridge.run` finishes, closing the socket resets the connection. This also applies when the system
    closes it because this process was killed.
    """
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)


def reason_of(error: Exception) -> str:
    """Return the text of an error, without the number of a system error."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return str(error)
