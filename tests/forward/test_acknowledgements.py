"""offset_common/forward/acknowledgements.py: a lost relay is noticed, and a slow one is kept."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest

from offset_common.forward.acknowledgements import LOST_AFTER, Acknowledgements
from tests.support.process import wait_until
from tests.support.relay_process import LOCALHOST


class Silent:
    """A connection over which something is under way, and whose peer acknowledges nothing."""

    def __init__(self) -> None:
        self.age = 60_000  # milliseconds

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return struct.pack("=24xI28xI", 1, self.age)[:size]


def test_relay_that_acknowledges_nothing_counts_as_lost() -> None:
    acknowledgements = Acknowledgements(Silent(), 0.0)  # type: ignore[arg-type]
    acknowledgements.check(LOST_AFTER - 1)
    with pytest.raises(TimeoutError, match="timed out"):
        acknowledgements.check(LOST_AFTER)


def test_one_acknowledgement_restarts_the_time() -> None:
    sock = Silent()
    acknowledgements = Acknowledgements(sock, 0.0)  # type: ignore[arg-type]
    sock.age = 500
    acknowledgements.check(LOST_AFTER)
    sock.age = 60_000
    acknowledgements.check(2 * LOST_AFTER - 1)
    with pytest.raises(TimeoutError):
        acknowledgements.check(2 * LOST_AFTER)


def test_relay_that_stops_reading_does_not_count_as_lost() -> None:
    with (
        socket.create_server((LOCALHOST, 0)) as server,
        socket.create_connection(server.getsockname()) as ours,
    ):
        ours.setblocking(False)
        with server.accept()[0]:
            acknowledgements = Acknowledgements(ours, 0.0)

            def full() -> bool:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        ours.send(bytes(65536))
                info = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
                return struct.unpack_from("=I", info, 24) == (0,)  # all that was sent is acknowledged

            wait_until(full, "a closed window")
            for now in range(100):
                acknowledgements.check(now)
