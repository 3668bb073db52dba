"""Three hosts are upgraded one after the other, under load: tunnels and listeners survive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from offset_common.client import connect
from offset_common.errors import OffsetError
from offset_common.identity import Identity
from tests.service.relays import UpgradingRelay, is_running
from tests.service.traffic import Flow, Tasks
from tests.support.client import echoing
from tests.support.fleet import DirectoryServer, FleetProcesses, NodeAt
from tests.support.process import PATIENCE, wait_until
from tests.support.relay_process import RelayProcess

HOSTS = 3
SHAPES = [(0, 0), (1, 0), (0, 1), (1, 2)]
"""Where the connect and the accept of a tunnel arrive, counted from the home of the listener."""
PAUSE = 0.03  # seconds between two messages of a tunnel, and between two connects of a caller
AWAY = 5.0  # seconds; on an idle machine it is about 0.3, and connects wait for up to 10 s at the wrong host


@pytest.fixture
def relay(server: DirectoryServer, tmp_path: Path) -> Iterator[FleetProcesses]:
    """Three hosts whose tunnels survive upgrades."""
    fleet = FleetProcesses(tmp_path, server.url, HOSTS, ("--upgrade-drain", "3600"), UpgradingRelay)
    yield fleet
    fleet.kill()


class Caller(Tasks):
    """A node of the package that connects to another one again and again.

    Args:
        host: where it connects.
        key: of the other node.
    """

    def __init__(self, host: RelayProcess, key: bytes) -> None:
        super().__init__()
        self._host, self._key = host, key
        self.met: list[float] = []  # when
        self._start(self._run)

    @property
    def longest_absence(self) -> float:
        """The longest time between two connects that succeeded, in seconds."""
        return max(after - before for before, after in zip(self.met, self.met[1:]))

    def _run(self) -> None:
        identity = Identity.generate()
        while not self._stopping.wait(PAUSE):
            try:
                with connect(self._host.ticket, identity, self._key) as tunnel:
                    tunnel.send(b"hello")
                    if tunnel.receive(PATIENCE) == b"hello":
                        self.met.append(time.monotonic())
            except OffsetError:
                continue  # its host, or that of the listener, was just upgraded


def make_flows(hosts: Sequence[RelayProcess], started: ExitStack) -> list[Flow]:
    """Make tunnels whose ends are at one, two and three hosts."""
    flows: list[Flow] = []
    for home in range(HOSTS):
        for connect_at, accept_at in SHAPES:
            caller, callee = (NodeAt(hosts[home].endpoint()) for _ in range(2))
            for node in (caller, callee):
                started.enter_context(node)
            listener = callee.listen()
            near = caller.at(hosts[(home + connect_at) % HOSTS]).connect(callee.public_key)
            assert listener.incoming() == caller.public_key
            far = callee.at(hosts[(home + accept_at) % HOSTS]).accept(caller.public_key)
            flows.append(Flow(near, far, 2 * len(flows), PAUSE))
            started.callback(flows[-1].stop)
    return flows


@pytest.mark.slow
def test_rolling_upgrade_under_load(
    relay: FleetProcesses, record_property: Callable[[str, object], None]
) -> None:
    with ExitStack() as started:
        flows = make_flows(relay.hosts, started)
        keys = [started.enter_context(echoing(host.ticket, end_to_end=False)) for host in relay.hosts]
        callers = [[Caller(host, key) for host in relay.hosts] for key in keys]
        everyone = [caller for each in callers for caller in each]

        def all_go_on() -> None:
            now, received = time.monotonic(), [max(flow.received) for flow in flows]
            wait_until(lambda: all(caller.met and caller.met[-1] > now for caller in everyone), "connects")
            wait_until(lambda: all(min(each.received) > count for each, count in zip(flows, received)))

        all_go_on()
        old = []
        for host in relay.hosts:
            assert isinstance(host, UpgradingRelay)
            old.append(host.upgrade())
            all_go_on()
        assert all(map(is_running, old)), "the tunnels are there"
        for tasks in (*everyone, *flows):
            tasks.finish()
        absences = [max(caller.longest_absence for caller in each) for each in callers]
        record_property("seconds without the listener of each host", absences)
        print("seconds without the listener of each host:", absences)
        assert max(absences) < AWAY
    wait_until(lambda: not any(map(is_running, old)), "the end of the old processes")
    assert relay.failures == []
