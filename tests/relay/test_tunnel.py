"""Tunnels: every byte in order, backpressure that pauses the partner, and space in the buffer pool."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from typing import Any

import pytest

from offset_common.channel.forwarder import Forwarder, ForwardResult
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.event_loop import READ, WRITE, ReadyEntry
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import KIB, MIB, SMALL_READ, Limits
from offset_common.relay.output_buffer import HIGH_WATER, LOW_WATER
from offset_common.relay.sessions import tunnel
from offset_common.relay.sessions.tunnel import FRAMES_BESIDE_LIGHT
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import ChannelMessage, InitConnection, InitRole, KaMessage
from offset_common.wire.packing import WORD_SIZE, pack, unpack
from tests.relay.harness import IN_TIME, LATE, Harness, TestPeer, full_pool, running, tcp_pair

MESSAGES = [b"", b"a", os.urandom(3000), bytes(10_000), os.urandom(70_000), os.urandom(300_000), b"end"]
STALL = 40.0  # seconds


@pytest.mark.parametrize("size", [1, 7, 8, 9, 20, 35, 36, 64, 1000, 48 * 1024, 65_536, 262_144])
def test_frames_cut_into_pieces_arrive_unchanged(harness: Harness, size: int) -> None:
    near, far = harness.tunnel()
    messages = (
        MESSAGES if size > 200 else [b"", b"a", bytes(range(256)), os.urandom(500 if size < 20 else 5000)]
    )
    data = near.encrypt(*messages)
    for start in range(0, len(data), size):
        near.write(data[start : start + size])
        harness.run_rounds(1)
        far.has_message()
    assert [far.receive() for _ in messages] == messages


def test_tunnels_in_turn_mix_nothing(harness: Harness) -> None:
    chance = random.Random(7)
    tunnels = [harness.tunnel() for _ in range(4)]
    messages = [
        [chance.randbytes(chance.choice([0, 5, 900, 20_000, 60_000, 200_000])) for _ in range(12)]
        for _ in tunnels
    ]
    rest = [near.encrypt(*messages[i]) for i, (near, _) in enumerate(tunnels)]
    while any(rest):
        i = chance.choice([i for i, data in enumerate(rest) if data])
        size = chance.choice([1, 3, 8, 100, 5000, 50_000])
        tunnels[i][0].write(rest[i][:size])
        rest[i] = rest[i][size:]
        harness.run_rounds(1)
        for _, far in tunnels:
            far.has_message()
    for i, (_, far) in enumerate(tunnels):
        assert [far.receive() for _ in messages[i]] == messages[i]


# Turns.


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[ForwardResult]:
    """What each turn of a tunnel end has forwarded."""
    made: list[ForwardResult] = []
    forward = Forwarder.forward

    def record(*args: Any) -> ForwardResult:
        made.append(forward(*args))
        return made[-1]

    monkeypatch.setattr(Forwarder, "forward", record)
    return made


def send_small_messages(harness: Harness, near: TestPeer, far: TestPeer, count: int) -> None:
    """Make the relay forward small messages that arrive nearly at once."""
    near.write(near.encrypt(*[bytes(64)] * count))
    for _ in range(count):
        far.receive()


def most_frames(turns: list[ForwardResult]) -> int:
    return max(turn.frames for turn in turns)


def test_lone_tunnel_has_long_turns(harness: Harness, turns: list[ForwardResult]) -> None:
    near, far = harness.tunnel()
    for end, other in ((near, far), (far, near)):
        send_small_messages(harness, end, other, 1)
    harness.advance(1.0)  # those were light turns
    send_small_messages(harness, near, far, 300)
    assert 2 * FRAMES_BESIDE_LIGHT < most_frames(turns) <= 256


class Rival(ReadyEntry):
    """A connection that always waits for a turn."""

    def __init__(self, harness: Harness) -> None:
        super().__init__(harness.loop, "2.2.2.2")
        harness.overloaded = True
        self._loop = harness.loop
        self.on_turn(0)

    def on_turn(self, events: int) -> bool:
        self._loop.request_turn(self)
        return True


def test_turns_are_short_while_another_waits(
    harness: Harness, turns: list[ForwardResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "SHARED_TURN", 64 * KIB)
    near, far = harness.tunnel()
    messages = [os.urandom(4 * KIB)] * 30
    near.send(messages[0])
    assert far.receive() == messages[0]
    harness.advance(1.0)  # no other light connection had input just before
    turns.clear()
    Rival(harness)
    near.write(near.encrypt(*messages))
    harness.run_until(lambda: far.has_message() and len(far.messages) == len(messages))
    assert turns[0].frames == 1, "the turn of a light connection"
    assert 50 * KIB < max(turn.taken for turn in turns[1:]) < 72 * KIB


def test_small_messages_of_others_shorten_turns(harness: Harness, turns: list[ForwardResult]) -> None:
    busy, light = harness.tunnel(), harness.tunnel()
    for _ in range(3):
        send_small_messages(harness, *light, 1)
    turns.clear()
    send_small_messages(harness, *busy, 200)
    assert most_frames(turns) == FRAMES_BESIDE_LIGHT
    harness.advance(1.0)
    turns.clear()
    send_small_messages(harness, *busy, 200)
    assert most_frames(turns) > 2 * FRAMES_BESIDE_LIGHT


def expensive_keepalive() -> bytes:
    """Return a packed keepAlive that takes about a millisecond to unpack: each word of padding is a run."""
    message = ChannelMessage(b"\1\0" * 16_000, KaMessage(None).encode()).encode()
    table, start = unpack(message, 0, WORD_SIZE)
    words, _ = unpack(message, start, WORD_SIZE * int.from_bytes(table[4:], "little"))
    return pack(bytes(table)) + pack(bytes(words))


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The frames that took the slow path."""
    frames: list[bytes] = []
    forward_slow = Forwarder._forward_slow

    def record(forwarder: Forwarder, source: Any, sink: Any, payload: bytes, *rest: Any) -> int:
        frames.append(payload)
        return forward_slow(forwarder, source, sink, payload, *rest)

    monkeypatch.setattr(Forwarder, "_forward_slow", record)
    return frames


def test_light_turns_unpack_no_large_frame(harness: Harness, unpacked: list[bytes]) -> None:
    tunnels = [harness.tunnel() for _ in range(20)]
    for near, far in tunnels:
        for _ in range(2):
            send_small_messages(harness, near, far, 1)
    harness.run_rounds()
    unpacked.clear()
    large, (near, far) = tunnels[:-1], tunnels[-1]
    keepalive = expensive_keepalive()
    for source, _ in large:
        source.write(encode_frame(source.protocol.secure_channel.sending.encrypt(keepalive)))
    near.send(b"small")
    assert far.receive() == b"small"
    assert len(unpacked) < len(large) // 2, "a small message waits until large ones are unpacked"
    harness.run_until(lambda: len(unpacked) == len(large))


def test_small_messages_pass_long_frames_of_many_addresses(harness: Harness, unpacked: list[bytes]) -> None:
    tunnels = [harness.tunnel(f"10.0.0.{number}") for number in range(20)]
    for near, far in tunnels:
        send_small_messages(harness, near, far, 1)
    harness.run_rounds()
    unpacked.clear()
    large, (near, far) = tunnels[:-1], tunnels[-1]
    for source, _ in large:
        small = source.encrypt(*[bytes(64)] * 3)
        source.write(
            small + encode_frame(source.protocol.secure_channel.sending.encrypt(expensive_keepalive()))
        )
    waited = []
    while len(unpacked) < len(large):
        before = len(unpacked)
        send_small_messages(harness, near, far, 1)
        waited.append(len(unpacked) - before)
    assert max(waited) < len(large) // 2


@pytest.mark.parametrize("cut", [0, 20_000])
def test_padded_message_keeps_its_connection_light(harness: Harness, cut: int) -> None:
    near, far = harness.tunnel()
    for _ in range(3):
        send_small_messages(harness, near, far, 1)
    frame = padded_frame(near, KaMessage(b"padded"), 60_000)
    for part in filter(None, (frame[:cut], frame[cut:])):
        near.write(part)
        harness.run_rounds()
        assert near.connection.light
    assert far.receive() == b"padded"


def test_light_listener_gets_another_turn_for_a_large_frame(harness: Harness) -> None:
    listener = harness.listener()
    for padding in (0, 100):
        listener.write(keepalive_frame(listener, padding))
        harness.advance(1.0)
    assert listener.connection.light
    Rival(harness)
    listener.write(keepalive_frame(listener, 2000))
    assert listener.connection.on_turn(READ)
    assert listener.connection.input.kept > 2000
    harness.run_until(lambda: not listener.connection.input.kept)


def test_request_of_a_newcomer_is_not_postponed(harness: Harness) -> None:
    newcomer = harness.admit()
    Rival(harness)
    request = InitConnection(InitRole.LISTEN).encode()
    newcomer.write(padded_frame(newcomer, KaMessage(request), 30_000))
    for _ in range(2):  # the start of the frame, then the rest
        newcomer.connection.on_turn(READ)
    assert newcomer.state is State.LISTENER


def keepalive_frame(peer: TestPeer, padding: int) -> bytes:
    return padded_frame(peer, KaMessage(None), padding)


def padded_frame(peer: TestPeer, message: KaMessage, padding: int) -> bytes:
    padded = ChannelMessage(os.urandom(padding), message.encode())
    return encode_frame(peer.protocol.secure_channel.sending.encrypt(padded.encode()))


def test_turn_ends_however_much_has_come(monkeypatch: pytest.MonkeyPatch, turns: list[ForwardResult]) -> None:
    in_turn: list[int] = []
    on_turn = SocketConnection.on_turn

    def count(connection: SocketConnection, events: int) -> bool:
        before = len(turns)
        more = on_turn(connection, events)
        in_turn.append(len(turns) - before)
        return more

    monkeypatch.setattr(SocketConnection, "on_turn", count)
    with running(Limits(buffers=100 * KIB, handshake_threads=1)) as harness:
        near, far = harness.tunnel()  # one read may take a third of the pool
        messages = [os.urandom(7000)] * 20
        near.write(near.encrypt(*messages))
        harness.run_until(lambda: far.has_message() and len(far.messages) == len(messages))
    assert max(in_turn) <= 2, "forwarded again in the same turn"


# Backpressure.


def fill(near: TestPeer, size: int = 50_000) -> tuple[list[bytes], bytes, int]:
    """Send until the relay stops reading; return the messages, their frames, and the number of bytes sent."""
    messages = [os.urandom(size)] * (3_000_000 // size)
    data = near.encrypt(*messages)
    return messages, data, near.write_until_paused(data)


@pytest.mark.parametrize("size", [100, 4000, 50_000, 300_000])
def test_unread_output_is_bounded_and_pauses_the_partner(harness: Harness, size: int) -> None:
    near, far = harness.tunnel()
    messages, data, sent = fill(near, size)
    assert sent < len(data), "the relay still reads from the near peer"
    waiting = far.connection.output.size
    assert LOW_WATER < waiting < HIGH_WATER + 2 * 300_000
    harness.run_rounds(20)
    assert far.connection.output.size == waiting
    while sent < len(data):
        sent += near.write_until_paused(data[sent : sent + 100_000])
        far.has_message()
    assert [far.receive() for _ in messages] == messages


def test_partner_is_read_again_at_the_low_water_mark(harness: Harness) -> None:
    near, far = harness.tunnel()
    fill(near, 20_000)
    received = near.connection.received
    read = 0
    while near.connection.received == received:
        read += len(far.sock.recv(20_000))
        harness.run_rounds(1)
    # The kernel's buffers are as full as before, so as much queued output was sent.
    assert abs(read - (HIGH_WATER - LOW_WATER)) < 200_000


def test_full_socket_does_not_delay_input(harness: Harness) -> None:
    near, far = harness.tunnel()
    fill(near)
    assert far.connection.output.size
    far.send(b"while its output waits")
    received = far.connection.received
    far.connection.on_turn(READ | WRITE)  # by now, its socket is full again
    assert far.connection.received > received


def test_keepalives_go_on_while_a_reader_pauses(harness: Harness) -> None:
    near, far = harness.tunnel()
    fill(near)
    for _ in range(10):
        harness.advance(8.0)
        far.send(b"alive")  # a peer that does not read can still send
        assert near.receive() == b"alive"
    sent = near.connection.sent
    harness.advance(16.0 + LATE)
    assert near.connection.sent > sent, "the paused peer gets keepalives"
    far.send(b"alive")
    harness.advance(16.0)
    assert near.state is State.TUNNEL, "silence counted although reading was paused"


def test_silent_peer_of_a_tunnel_ends_it(harness: Harness) -> None:
    near, far = harness.tunnel()
    for _ in range(4):
        harness.advance(8.0)
        far.send_sign_of_life()
    harness.advance(LATE)
    assert harness.reason_of(near.connection) is CloseReason.IDLE
    assert far.wait_for_end() == []
    far.sock.close()
    assert harness.reason_of(far.connection) is CloseReason.PARTNER_ENDED


def test_peer_that_never_reads_is_closed_as_stalled() -> None:
    with running(Limits(stall=STALL, handshake_threads=1)) as harness:
        near, far = harness.tunnel()
        near.write(near.encrypt(*[os.urandom(50_000)] * 8))
        harness.run_until(lambda: far.connection.output.size > 0)
        harness.advance(STALL / 2)
        far.send(b"alive")
        assert near.receive() == b"alive"
        near.send_sign_of_life()
        harness.advance(STALL / 2 - IN_TIME)
        assert far.state is State.TUNNEL
        harness.advance(IN_TIME + LATE)
        assert harness.reason_of(far.connection) is CloseReason.STALLED
        assert near.wait_for_end() == []
        near.sock.close()
        assert harness.reason_of(near.connection) is CloseReason.PARTNER_ENDED


def test_slow_reader_is_not_stalled() -> None:
    with running(Limits(stall=STALL, handshake_threads=1)) as harness:
        near, far = harness.tunnel()
        near.write(near.encrypt(*[os.urandom(50_000)] * 12))
        harness.run_until(lambda: far.connection.output.size > 0)
        for _ in range(3):
            harness.advance(16.0)
            far.sock.recv(200_000)
            far.send_sign_of_life()
            near.send_sign_of_life()
        assert far.state is State.TUNNEL


# Space in the buffer pool.


def test_large_message_passes_however_small_the_pool() -> None:
    with running(Limits(buffers=1, handshake_threads=1)) as harness:
        near, far = harness.tunnel()
        messages = [os.urandom(700_000), b"small", os.urandom(90_000)]
        near.write(near.encrypt(*messages))
        assert [far.receive() for _ in messages] == messages


def test_frame_waits_for_space_and_goes_on() -> None:
    with running(Limits(buffers=400 * KIB, handshake_threads=1)) as harness:
        pool = harness.relay.buffers
        other = pool.open_account("3.3.3.3")
        other.add(pool.limit)
        near, far = harness.tunnel("2.2.2.2")
        message = os.urandom(60_000)
        data = near.encrypt(message)
        near.write_until_paused(data)
        assert pool.waiting >= 1
        assert not far.has_message()
        other.add(-other.held)
        assert far.receive() == message
        assert pool.waiting == 0


def test_whole_frame_passes_without_space_in_the_pool(harness: Harness) -> None:
    with full_pool(harness) as pool:
        before = pool.used
        near, far = harness.tunnel("2.2.2.2")
        message = os.urandom(32 * KIB)
        data = near.encrypt(message)
        near.write(data[:SMALL_READ])
        harness.run_until(lambda: near.connection.input.kept == SMALL_READ)
        harness.run_rounds()
        assert not near.connection.account.waiting
        near.write(data[SMALL_READ:])
        assert far.receive() == message
        assert pool.used == before


def test_part_of_a_frame_without_space_needs_no_turns(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socketpair", tcp_pair)
    with full_pool(harness):
        near, far = harness.tunnel("2.2.2.2")
        message = os.urandom(32 * KIB)
        data = near.encrypt(message)
        near.write(data[: 3 * SMALL_READ])
        connection = near.connection
        harness.run_until(lambda: connection.bytes_awaited > 1)
        harness.run_until(lambda: connection.count_unread() == 2 * SMALL_READ)
        # A poll may find it readable all the same: the system's memory for all TCP sockets may be short.
        awaited = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        assert awaited > 2 * SMALL_READ, "it would get turns for nothing"
        near.write(data[3 * SMALL_READ :])
        assert far.receive() == message


def test_frame_without_space_waits_for_a_slow_peer(harness: Harness) -> None:
    with full_pool(harness) as pool:
        before = pool.used
        near, far = harness.tunnel("2.2.2.2")
        messages = [os.urandom(32 * KIB) for _ in range(30)]
        data = near.encrypt(*messages)
        sent = near.write_until_paused(data)
        assert sent < len(data)
        assert pool.used - before <= 32 * KIB, "one message, at most, did not fit into the system's buffer"
        while sent < len(data):
            far.has_message()
            sent += near.write_until_paused(data[sent : sent + 100_000])
        assert [far.receive() for _ in messages] == messages


def test_system_that_takes_less_than_promised_fills_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    # As a kernel does that is short of memory.
    monkeypatch.setattr(SocketConnection, "is_writable", lambda _: True)
    monkeypatch.setattr(SocketConnection, "send_buffer_size", lambda _: 1 << 20)
    with running(Limits(buffers=4 * MIB, handshake_threads=1)) as harness:
        tunnels = [harness.tunnel() for _ in range(100)]
        message = os.urandom(50_000)
        for near, far in tunnels:
            far.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * KIB)
            near.write_until_paused(near.encrypt(message))
        assert 1 * MIB < harness.relay.buffers.used < 3 * MIB + 2 * len(message)
        for _, far in tunnels:
            assert far.receive() == message


def test_unread_small_messages_exceed_no_share_of_the_pool() -> None:
    with running(Limits(buffers=4 * MIB, handshake_threads=1)) as harness:
        pool = harness.relay.buffers
        for _ in range(100):
            near, far = harness.tunnel()
            far.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * KIB)
            near.write_until_paused(near.encrypt(*[os.urandom(900)] * 60))
        assert 0.49 < pool.used / pool.limit <= 0.5
        near, far = harness.tunnel()
        message = os.urandom(50_000)
        near.write(near.encrypt(message))
        assert far.receive() == message


def test_beginnings_of_large_messages_do_not_block_each_other() -> None:
    with running(Limits(buffers=1024 * KIB, handshake_threads=1)) as harness:
        tunnels = [harness.tunnel() for _ in range(20)]
        messages = [os.urandom(3000)] * 10 + [os.urandom(800_000)]
        for near, far in tunnels:
            send_small_messages(harness, near, far, 1)
        rest = [near.encrypt(*messages) for near, _ in tunnels]

        def all_received() -> bool:
            for index, (near, far) in enumerate(tunnels):
                with contextlib.suppress(BlockingIOError):
                    rest[index] = rest[index][near.sock.send(rest[index][:80_000]) :]
                far.has_message()
            return all(len(far.messages) == len(messages) for _, far in tunnels)

        harness.run_until(all_received)
        assert all(far.messages == messages for _, far in tunnels)


def test_input_of_both_ends_passes_while_the_pool_is_full(harness: Harness) -> None:
    ends = harness.tunnel("2.2.2.2")
    for end, far in (ends, ends[::-1]):
        end.send(bytes(4000))  # the next read is for messages of this size
        far.receive()
    messages = [os.urandom(100) for _ in range(200)]
    for end in ends:
        end.sock.send(end.encrypt(*messages))
        end.connection.on_turn(READ)
        assert end.connection.input.kept > SMALL_READ, "all messages passed in one turn"
    with full_pool(harness):
        for end in ends:
            assert [end.receive() for _ in messages] == messages


@pytest.mark.parametrize("size", [40_000, 300_000])
def test_partial_frames_without_space_have_a_deadline(size: int) -> None:
    with running(Limits(buffers=1024 * KIB, handshake_threads=1)) as harness:
        tunnels = [harness.tunnel("1.1.1.1") for _ in range(30)]
        for near, _ in tunnels:
            near.write_until_paused(near.encrypt(os.urandom(size))[: size // 2])
        assert harness.relay.buffers.used > 100 * KIB
        for _ in range(20):
            for _, far in tunnels:
                with contextlib.suppress(OSError):
                    far.sock.send(far.encrypt(b"alive"))
            harness.advance(16.0)
        assert harness.relay.buffers.used == 0
        assert all(near.connection.closed for near, _ in tunnels)


def test_end_lost_during_a_rekey_keeps_no_space(harness: Harness) -> None:
    near, far = harness.tunnel()
    near.protocol.secure_channel.start_rekey(harness.loop.now)
    near.sock.send(near.protocol.data_to_send() + (1 << 20).to_bytes(8, "big") + bytes(5000))
    near.sock.close()
    harness.run_until(lambda: near.connection.closed)
    far.wait_for_end()
    assert harness.relay.buffers.used == 0


def test_paused_peer_that_waited_for_space_before_is_not_idle() -> None:
    with running(Limits(buffers=400 * KIB, handshake_threads=1)) as harness:
        pool = harness.relay.buffers
        listener = harness.listener(address="1.1.1.1")
        near = harness.pending(listener, "1.1.1.1")
        assert listener.incoming_key() == near.key
        neighbour = pool.open_account("1.1.1.1")
        neighbour.add(185 * KIB)  # leaves about 10 KiB: less than early data may unpack to
        near.send(b"early", os.urandom(3000))
        harness.run_until(lambda: pool.waiting == 1)
        far = harness.admit(listener.identity, "1.1.1.1").request(InitRole.ACCEPT, near.key)
        fill(near, 2000)
        for _ in range(4):
            harness.advance(16.0)
            far.send_sign_of_life()
        assert near.state is State.TUNNEL, "silence counted although reading was paused"
        neighbour.add(-neighbour.held)


def test_frame_with_space_is_read_in_one_piece(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = harness.tunnel()
    message = os.urandom(60_000)
    data = near.encrypt(message)
    near.write(data[:10_000])
    harness.run_until(lambda: near.connection.input.kept == 10_000)
    reads = []
    read = SocketConnection.read

    def count(self: SocketConnection, *args: Any) -> Any:
        reads.append(self)
        return read(self, *args)

    monkeypatch.setattr(SocketConnection, "read", count)
    near.write(data[10_000:])
    assert far.receive() == message
    assert reads.count(near.connection) <= 2
