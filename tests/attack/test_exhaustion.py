"""The system has no descriptor, no memory or no disk left."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from offset_common.identity import Identity
from offset_common.wire.messages import InitRole
from tests.attack.conftest import BeginSiege
from tests.attack.siege import MIB, Siege
from tests.attack.supplies import push

FEW_DESCRIPTORS = ("sh", "-c", 'ulimit -n 64 && exec "$@"', "sh")
ELSEWHERE = "127.0.0.2"  # another address than the watch has


@pytest.mark.parametrize("proves", [False, True], ids=["silent", "proven"])
def test_more_connections_than_descriptors_are_outlived(begin_siege: BeginSiege, proves: bool) -> None:
    siege = begin_siege(prefix=FEW_DESCRIPTORS)
    crowd = siege.crowd()
    visitors = crowd.prove(120) if proves else crowd.dial(120)
    crowd.run_for(1.0)
    assert siege.descriptors() <= 64
    assert sum(not each.ended for each in visitors) < 64
    crowd.leave()
    time.sleep(0.3)


@pytest.mark.parametrize("keys", [1, 120], ids=["one key", "many keys"])
def test_others_find_room_beside_connections_that_use_up_all_descriptors(
    begin_siege: BeginSiege, keys: int
) -> None:
    siege = begin_siege(prefix=FEW_DESCRIPTORS)
    crowd = siege.crowd()
    key = crowd.listen(source=ELSEWHERE).identity.public_key
    visitors = crowd.connect(120, key, [Identity.generate() for _ in range(keys)], ELSEWHERE)
    crowd.run_for(1.0)
    assert siege.descriptors() <= 64
    assert sum(not each.ended for each in visitors) < 64


def test_more_connections_than_descriptors_that_the_limit_allows_for_are_outlived(
    begin_siege: BeginSiege,
) -> None:
    siege = begin_siege("--connections", "100")
    everything = siege.descriptors() + 30
    resource.prlimit(siege.relay.process.pid, resource.RLIMIT_NOFILE, (everything, everything))
    crowd = siege.crowd()
    crowd.dial(120)
    crowd.run_for(2.0)
    siege.relay.wait_for_line("cannot accept for a moment: Too many open files")


@contextmanager
def short_of_memory(siege: Siege, left: int) -> Iterator[None]:
    """Let the relay have only so many bytes more of address space."""
    process = siege.relay.process.pid
    used = int(Path(f"/proc/{process}/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.prlimit(process, resource.RLIMIT_AS)
    resource.prlimit(process, resource.RLIMIT_AS, (used + left, hard))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_AS, (hard, hard))


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, MIB // 2, 3 * MIB])
def test_memory_that_runs_out_ends_connections_and_never_the_relay(
    begin_siege: BeginSiege, left: int
) -> None:
    siege = begin_siege()
    siege.canaries_that_may_fail = 2  # a newcomer, too, may be the one for whom nothing was left
    crowd = siege.crowd()
    pairs = crowd.tunnels(40)
    key = crowd.listen().identity.public_key
    with short_of_memory(siege, left):
        for near, far in pairs:
            far.stop_reading()
            push(near, 1 << 19, 100)
        crowd.run_for(1.5)
        for visitor in crowd.dial(400):
            visitor.on_proven = lambda each: each.init(InitRole.CONNECT, key)
            visitor.begin_handshake()
        crowd.run_for(1.5)
    crowd.leave()
