"""The directory protocol under thousands of random schedules, in virtual time."""

from __future__ import annotations

import os

import pytest

from tests.fleet.simulation import KEYS, QUIET, SimulatedFleet

STEPS = 40
SCHEDULES = int(os.environ.get("SCHEDULES", "500"))  # of the slow test: ten a second, or fewer


def disturbed_fleet(seed: int) -> SimulatedFleet:
    """Return a quiet fleet that has been through a random schedule; its keys are where they must be."""
    fleet = SimulatedFleet(seed, hosts=2 + seed % 3)
    fleet.faults = fleet.random.choice((0.0, 0.02, 0.1))
    for _ in range(STEPS):
        fleet.do_something()
        fleet.run_for(fleet.random.choice((0.0, 0.0, 0.002, 0.1, 3.0, 15.0)))
    fleet.heal()
    before = fleet.homes()
    fleet.run_for(QUIET)
    after, newest = fleet.homes(), fleet.newest()
    for key in KEYS:
        # At most one host keeps a key: the one with the newest claim, if it still had it. None comes back.
        assert len(after[key]) <= 1, (seed, key)
        assert set(after[key]) <= set(before[key]), (seed, key)
        if newest[key] in [host.id for host in before[key]]:
            assert [host.id for host in after[key]] == [newest[key]], (seed, key)
    return fleet


def check_homes(seeds: range) -> None:
    """Check after each schedule that all hosts agree on the home of each key."""
    for seed in seeds:
        fleet = disturbed_fleet(seed)
        homes = {key: hosts[0] if hosts else None for key, hosts in fleet.homes().items()}
        for host in fleet.hosts:
            for key, seen in fleet.homes_seen_from(host).items():
                # An old entry names a host that will answer that it has no such listener.
                left_over = seen is not None and fleet.clock_went_back and key not in seen.listeners
                assert seen is homes[key] or (homes[key] is None and left_over), (seed, key)


def test_a_key_has_one_home_once_quiet() -> None:
    check_homes(range(40))


@pytest.mark.slow
@pytest.mark.timeout(SCHEDULES + 600)
def test_a_key_has_one_home_after_any_schedule() -> None:
    check_homes(range(1000, 1000 + SCHEDULES))


def test_no_entry_is_left_for_ever() -> None:
    for seed in range(10):
        fleet = disturbed_fleet(seed)
        fleet.stop_everything()
        assert fleet.server.keys() == [], seed
