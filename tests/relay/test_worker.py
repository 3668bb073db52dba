"""A worker without a process: what it makes of what the front process sends."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from offset_common.relay.handover import encode_pair, end_of, send_with_sockets
from offset_common.relay.worker import Worker

from offset_common.relay.limits import MIB
from tests.relay.rig import Rig


class Served:
    """A worker whose rounds the test runs, and the front process's end of its channel."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        self.worker = Worker(theirs, 120.0, MIB)
        self.loop = self.worker._loop
        self._theirs = theirs

    def close(self) -> None:
        """Give back all that it has."""
        self.channel.close()
        self._theirs.close()
        self.loop.close()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("arrived", [0, 1])
def test_a_pair_whose_sockets_did_not_arrive_costs_that_pair_alone(
    rig: Rig, served: Served, arrived: int
) -> None:
    near, far = rig.tunnel()
    datagram = encode_pair(end_of(near.link, 6), end_of(far.link, 7))
    assert datagram is not None
    before = descriptors()
    if arrived:
        send_with_sockets(served.channel, datagram, [near.link.sock.fileno()])
    else:
        served.channel.send(datagram)
    served.loop.run_round()
    reports = [json.loads(served.channel.recv(4096)) for _ in range(2)]
    assert [(report["ended"], report["reason"]) for report in reports] == [
        (6, "CONNECTION_LOST"),
        (7, "CONNECTION_LOST"),
    ]
    assert descriptors() == before
    served.channel.send(json.dumps({"do": "close", "number": 6, "reason": "SHUTDOWN"}).encode())
    served.loop.run_round()
    assert not served.loop._stopped
