"""Data that is never read, in tunnels whose peers stop reading."""

from __future__ import annotations

import shutil
import time

import pytest

from tests.attack import ATTACKER, BYSTANDER
from tests.attack.harness import KIB, MIB, Attack, kernel_memory
from tests.support.encoding import frame
from tests.support.process import wait_until
from tests.support.swarm import Swarm
from tests.support.swarm_peer import SwarmPeer

UNREAD_TUNNELS = 800
MAX_KERNEL_MEMORY = 2 * MIB  # bytes for one tunnel, both ends and directions
MAX_SECONDS = 1.0  # for a bystander's 32 KiB message


def push_unread(
    swarm: Swarm, count: int, size: int, source: str, total: int = 256 * MIB
) -> list[tuple[SwarmPeer, SwarmPeer]]:
    """Make tunnels whose acceptors don't read, and push messages of `total` bytes into them."""
    pairs = swarm.tunnels(count, source)
    for near, far in pairs:
        far.set_reading(False)
        near.push(size, total // size // count + 1)
    return pairs


def assert_large_message_passes(swarm: Swarm, source: str) -> None:
    """Check that a message of nearly the maximum size still passes through a new tunnel."""
    near, far = swarm.tunnels(1, source)[0]
    near.push(1 * MIB - 4 * KIB, 1)
    assert swarm.run(lambda: len(far.messages) == 1, 5.0)


@pytest.mark.slow
@pytest.mark.parametrize("count", [50, 1000])
@pytest.mark.parametrize("size", [1 * KIB, 256 * KIB, 1 * MIB - 4 * KIB])
def test_unread_data_stays_within_the_budget(attack: Attack, count: int, size: int) -> None:
    swarm = attack.swarm()
    push_unread(swarm, count, size, ATTACKER)
    swarm.run_for(3.0)
    assert_large_message_passes(swarm, BYSTANDER)
    attack.check()


@pytest.mark.slow
@pytest.mark.parametrize("source", [BYSTANDER, ATTACKER], ids=["other address", "same address"])
def test_unread_tunnels_of_one_address_delay_no_other(attack: Attack, source: str) -> None:
    swarm, attackers = attack.swarm(), attack.swarm(receive_buffer=4096)
    push_unread(attackers, UNREAD_TUNNELS, 64 * KIB, ATTACKER, 1 << 40)
    attackers.run_for(5.0)
    near, far = swarm.tunnels(1, source)[0]
    seconds = []
    for number in range(10):
        start = time.monotonic()
        near.send(bytes(32 * KIB))
        assert swarm.run(lambda number=number: len(far.messages) > number, 30.0)  # type: ignore[misc]
        seconds.append(time.monotonic() - start)
    print(f"\n  beside {UNREAD_TUNNELS} unread tunnels 32 KiB take up to {max(seconds) * 1000:.0f} ms")
    assert max(seconds) < MAX_SECONDS
    attack.check()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss, of the system's package iproute2")
def test_kernel_buffers_of_a_tunnel_are_bounded(attack: Attack) -> None:
    swarm = attack.swarm()
    pairs = push_unread(swarm, 100, 64 * KIB, ATTACKER)
    for near, far in pairs:
        near.set_reading(False)
        far.push(64 * KIB, 100)
    swarm.run_for(5.0)
    per_tunnel = kernel_memory(attack.relay.port) / len(pairs)
    print(f"\n  {per_tunnel / MIB:.2f} MiB of the kernel's memory for one unread tunnel")
    assert 0 < per_tunnel <= MAX_KERNEL_MEMORY
    attack.check()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss, of the system's package iproute2")
def test_closed_connections_leave_nothing_in_the_kernel(attack: Attack) -> None:
    swarm = attack.swarm(receive_buffer=4096)
    pairs = push_unread(swarm, 50, 30 * KIB, ATTACKER, 50 * 300 * KIB)
    swarm.run_for(2.0)
    assert kernel_memory(attack.relay.port) > len(pairs) * 100 * KIB
    for near, far in pairs:
        near.discard_unsent()
        far.send_bytes(frame(bytes(40)))
    assert swarm.all_end([near for near, _ in pairs])
    wait_until(
        lambda: kernel_memory(attack.relay.port) < len(pairs) * 100 * KIB, "the kernel's memory to be freed"
    )
    attack.check()
