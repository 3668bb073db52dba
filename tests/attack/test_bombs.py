"""Messages that are made to be expensive for the one who unpacks them."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from functools import partial

import pytest

from offset_common.wire.capnp import data_pointer, discriminant_word, segment_table, struct_pointer
from offset_common.wire.packing import pack
from tests.attack import ATTACKER
from tests.attack.harness import Attack
from tests.support.encoding import VERSION_FRAME, frame
from tests.support.relay_log import Reason
from tests.support.swarm import Swarm
from tests.support.swarm_peer import SwarmPeer

MAX_SECONDS = 0.01  # of the relay's processor for each bomb, on average; the decoder is to stop after 0.005
COUNT = 60  # of each bomb
CANARY_LOAD = 0.1  # of the relay's time, at most, that serving the canary takes
WORD = struct.Struct("<Q")


def far_pointer(position: int, segment: int, double: bool = False) -> bytes:
    """Return a far pointer."""
    return struct.pack("<II", position << 3 | double << 2 | 2, segment)


def table(*words: int) -> bytes:
    """Return a packed segment table."""
    sizes = struct.pack(f"<I{len(words)}I", len(words) - 1, *words)
    return pack(sizes + bytes(-len(sizes) % 8))


def zero_runs(size: int) -> bytes:
    """Return `size` bytes, each two of which unpack to 2,048 zero bytes."""
    return b"\x00\xff" * (size // 2)


def zero_runs_within_their_table(size: int) -> bytes:
    return table(size // 2 * 256) + zero_runs(size)


def zero_runs_up_to_the_size_limit(size: int) -> bytes:
    return table(64 * 1024 * 2) + zero_runs(1024)


def data_of_zero_runs(size: int) -> bytes:
    words = 64 * 1024
    first = pack(struct_pointer(0, 0, 2)) + b"\x00\x00" + pack(data_pointer(0, words * 8))
    return table(3 + words) + first + zero_runs(512)


def slow_words(size: int) -> bytes:
    words = size // 16
    content = pack(struct_pointer(0, 0, 2) + data_pointer(1, words * 8) + bytes(8))
    return table(3 + words) + content + b"\x7f\x01\x02\x03\x04\x05\x06\x07" * words


def single_byte_words(size: int) -> bytes:
    words = size // 4
    content = pack(struct_pointer(0, 0, 2) + data_pointer(1, words * 8) + bytes(8))
    return table(3 + words) + content + b"\x01\x01" * words


def four_billion_segments(size: int) -> bytes:
    return pack(struct.pack("<II", 2**32 - 1, 1)) + zero_runs(size)


def too_many_segments(size: int) -> bytes:
    return table(*[1] * 512) + pack(WORD.pack(0)) * 512


def chain_of_segments(size: int) -> bytes:
    body = b"".join(far_pointer(0, number + 1) for number in range(510)) + far_pointer(0, 0)
    return table(*[1] * 511) + pack(body)


def ring_of_double_far_pointers(size: int) -> bytes:
    return table(1, 2, 2) + pack(
        far_pointer(0, 1, True) + far_pointer(0, 2, True) * 2 + far_pointer(0, 1, True) * 2
    )


def shared_large_object(size: int) -> bytes:
    words = 65535
    first = struct_pointer(0, 0, 2) + data_pointer(1, words * 8) + struct_pointer(0, words, 0)
    return table(3 + words) + pack(first) + zero_runs(512)


def largest_struct(size: int) -> bytes:
    return table(1 + 2 * 65535) + pack(struct_pointer(0, 65535, 65535)) + zero_runs(1024)


def random_bytes(size: int) -> bytes:
    return os.urandom(size)


def table_and_random_bytes(size: int) -> bytes:
    return pack(segment_table(size // 8)) + os.urandom(size)


BOMBS: list[Callable[[int], bytes]] = [
    zero_runs,
    zero_runs_within_their_table,
    zero_runs_up_to_the_size_limit,
    data_of_zero_runs,
    slow_words,
    single_byte_words,
    four_billion_segments,
    too_many_segments,
    chain_of_segments,
    ring_of_double_far_pointers,
    shared_large_object,
    largest_struct,
    random_bytes,
    table_and_random_bytes,
]


def as_channel_message(peer: SwarmPeer, bomb: bytes) -> None:
    """Send it in the place of a ChannelMessage."""
    assert peer.channel is not None
    peer.send_frame(peer.channel.sending.seal(bomb))


def as_ka_message(peer: SwarmPeer, bomb: bytes) -> None:
    """Send it in the place of a KaMessage."""
    assert peer.channel is not None
    peer.send_frame(peer.channel.seal_user(bomb))


def as_message(peer: SwarmPeer, bomb: bytes) -> None:
    """Send it as a message: an InitConnection, a RejectConnection, or bytes for another node."""
    peer.send(bomb)


ROLES: dict[str, Callable[[Swarm], list[SwarmPeer]]] = {
    "awaiting init": lambda swarm: swarm.prove(COUNT),
    "listeners": lambda swarm: swarm.listeners(COUNT),
    "tunnels": lambda swarm: [near for near, _ in swarm.tunnels(COUNT)],
}


def cpu_seconds_of(attack: Attack, send: Callable[[], bool]) -> float:
    """Return the processor seconds that the relay spends on each of the bombs that `send` sends."""
    before, start = attack.relay.cpu_seconds, time.monotonic()
    assert send()
    canary = (time.monotonic() - start) * CANARY_LOAD
    return (attack.relay.cpu_seconds - before - canary) / COUNT


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_before_the_handshake_are_cheap(attack: Attack, bomb: Callable[[int], bytes]) -> None:
    swarm = attack.swarm()
    peers = swarm.dial(COUNT)
    bombs = [VERSION_FRAME + frame(bomb(64 * 1024)), VERSION_FRAME + frame(bomb(2000)[:2048])]

    def send() -> bool:
        for number, peer in enumerate(peers):
            peer.send_bytes(bombs[number % 2])
        return swarm.all_end(peers, 5.0)

    assert cpu_seconds_of(attack, send) < MAX_SECONDS
    attack.check()


@pytest.mark.slow
@pytest.mark.parametrize("deliver", [as_channel_message, as_ka_message, as_message])
@pytest.mark.parametrize("role", ROLES)
def test_bombs_after_the_handshake_are_cheap(
    attack: Attack, role: str, deliver: Callable[[SwarmPeer, bytes], None]
) -> None:
    swarm = attack.swarm()
    costs: dict[str, float] = {}
    for make in BOMBS:
        send = partial(send_to_all, swarm, ROLES[role](swarm), deliver, make(64 * 1024))
        costs[make.__name__] = cpu_seconds_of(attack, send)
        swarm.leave()
    print({name: f"{cost * 1000:.2f} ms" for name, cost in costs.items()})
    assert {name: cost for name, cost in costs.items() if cost >= MAX_SECONDS} == {}
    attack.check()


def send_to_all(
    swarm: Swarm, peers: list[SwarmPeer], deliver: Callable[[SwarmPeer, bytes], None], bomb: bytes
) -> bool:
    """Send a bomb on each connection; return whether the relay took all of them."""
    for peer in peers:
        deliver(peer, bomb)
    # A bomb ends its connection, except in a tunnel, where it may be meant for another node.
    sent = swarm.run(lambda: not any(peer.unsent_bytes and not peer.ended for peer in peers), 5.0)
    swarm.all_end(peers, 0.15)
    return sent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "body"),
    [
        (120_000, b"\xfe\x01\x02\x03\x04\x05\x06\x07" * 120_000),
        (120_000, b"\x01\x01" * 120_000),
        (130_048, b"\x00\xff" * 508),
    ],
    ids=["slow words", "single bytes", "zero runs"],
)
def test_expensive_packing_ends_its_connection(attack: Attack, words: int, body: bytes) -> None:
    head = struct_pointer(0, 0, 2) + bytes(8) + struct_pointer(0, 1, 1) + discriminant_word(1)
    bomb = pack(segment_table(5 + words)) + pack(head + data_pointer(0, 8 * words)) + body
    swarm = attack.swarm()
    ends = [near for near, _ in swarm.tunnels(40, ATTACKER)]
    for end in ends:
        assert end.channel is not None
        end.send_frame(end.channel.sending.seal(bomb))
    assert swarm.all_end(ends)
    attack.relay.wait_for_end(role="tunnel", reason=Reason.PROTOCOL_ERROR)
    attack.check()
