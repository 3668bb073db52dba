"""A TCP connection and the tunnel that continues it.

A tunnel carries messages and has one end for both directions; a TCP connection carries bytes and ends
each way by itself. Hence the first byte of every message says what it is:

    0 DATA  bytes of the TCP connection, in order
    1 END   nothing more comes this way (the TCP side was half-closed); the other way goes on

Who has sent END and hears it as well closes the tunnel. A tunnel that ends earlier was cut off, by a
node, a network or the relay: the TCP connection is then reset, so that half a file never looks like a
whole one. The relay cannot make up an END, it has not the keys.

Each way has a thread that waits for the slower side, so nothing is read that cannot be passed on:

    TCP --> _send    --> tunnel    waits while the tunnel's queue is full
    TCP <-- _receive <-- tunnel    waits while the TCP side does not read
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
CHUNK_SIZE = 64 * 1024  # bytes of TCP in one message at most
LINGER_NONE = struct.pack("ii", 0, 0)  # closing delivers what is left
LINGER_RESET = struct.pack("ii", 1, 0)  # closing resets


class Bridge:
    """A TCP connection and the tunnel that continues it.

    Args:
        sock: the TCP connection, made ready by `prepare`; closed by `run`.
        tunnel: end to end; closed by `run`.
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
        """Pass bytes both ways to the end; return how that was, for the log."""
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

    def cut_off(self, reason: str) -> None:
        """End both without an END; `run` then returns."""
        with self._lock:
            self._failure = self._failure or reason
        self._tunnel.close(timeout=0)
        # This wakes `recv` and tells the TCP peer nothing: what it must see is the reset, not an end.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def _send(self) -> None:
        try:
            self._pass_to_tunnel()
        except (OSError, OffsetError) as error:
            self.cut_off(reason_of(error))

    def _pass_to_tunnel(self) -> None:
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
        # Said first: as soon as it is sent, the peer may close the tunnel.
        self._end_sent = True
        self._tunnel.send(bytes([END]))

    def _receive(self) -> None:
        try:
            # After an END as well: it is here that the end of the tunnel shows.
            while not (self._end_sent and self._end_received):
                self._pass_to_socket(self._tunnel.receive())
        except (OSError, OffsetError) as error:
            if not (self._end_sent and self._end_received):
                self.cut_off(reason_of(error))

    def _pass_to_socket(self, message: bytes) -> None:
        kind = message[0] if message else None
        if self._end_received or kind not in (DATA, END) or (kind == END and len(message) > 1):
            raise DecodeError("the peer sent what forward.py does not send")
        if kind == DATA:
            self._sock.sendall(memoryview(message)[1:])
            self._received += len(message) - 1
        else:
            self._sock.shutdown(socket.SHUT_WR)
            self._end_received = True


def prepare(sock: socket.socket) -> None:
    """Make a TCP connection ready for a bridge.

    Closing it resets it until `Bridge.run` knows better, even if it is the system that closes it because this
    process died.
    """
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)


def reason_of(error: Exception) -> str:
    """Return what went wrong, in words for a person."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return str(error)
