"""Notice that the relay no longer acknowledges anything, as after a change of network.

TCP_USER_TIMEOUT is no help here: it also ends the connection of a slow reader, whose system acknowledges
everything and accepts nothing for a while. So this reads what the kernel knows about the connection.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

LOST_AFTER = 15.0  # seconds
RECENT = 2000  # milliseconds: longer than the second or so between two checks
_TCP_INFO = struct.Struct("=24xI28xI")  # of struct tcp_info: tcpi_unacked, tcpi_last_ack_recv


class Acknowledgements:
    """The acknowledgements of one TCP connection.

    Args:
        sock: the connection.
        now: seconds, by the same clock as every later `now`.
    """

    def __init__(self, sock: socket.socket, now: float) -> None:
        self._sock = sock
        self._last = now  # the last time at which everything was acknowledged

    def check(self, now: float) -> None:
        """Raise TimeoutError if bytes have been under way for LOST_AFTER without any acknowledgement.

        Call this about once a second.
        """
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        segments_under_way, age = _TCP_INFO.unpack(info)
        if not segments_under_way or age < RECENT:
            self._last = now
        elif now - self._last >= LOST_AFTER:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
