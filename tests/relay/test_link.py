"""Links: what waits to be written, what is kept of what was read, and the end of both."""

from __future__ import annotations

import os
import random

import pytest
from offset_common.relay.reasons import CloseReason

from offset_common.constants import IDLE_TIMEOUT
from offset_common.relay.limits import LINGER_TIMEOUT, OUTPUT_HIGH_WATER, OUTPUT_LOW_WATER, Limits
from offset_common.wire.messages import InitConnection, InitRole, KaMessage
from tests.relay.rig import Rig, running
from tests.wire.layout import LIST, STRUCT, elements, packed, sections, word
from tests.wire.layout import near as near_pointer

MESSAGES = [b"", b"a", os.urandom(3000), bytes(10_000), os.urandom(70_000), b"end"]
STALL = 40.0  # seconds


def fill(rig: Rig) -> tuple[int, list[bytes]]:
    """Return how much a socketpair and a queue over its high-water mark hold, as messages."""
    message = os.urandom(50_000)
    return len(message), [message] * 40


@pytest.mark.parametrize("size", [1, 7, 8, 9, 20, 35, 36, 64, 1000, 48 * 1024, 65_536])
def test_frames_cut_after_every_so_many_bytes_arrive_unchanged(rig: Rig, size: int) -> None:
    near, far = rig.tunnel()
    messages = MESSAGES if size > 20 else [b"", b"a", bytes(range(256))]
    data = near.sealed(*messages)
    for start in range(0, len(data), size):
        near.write(data[start : start + size])
        before = near.link.received
        rig.until(lambda before=before: near.link.received > before or near.link.received == len(data))  # type: ignore[misc]
    assert [far.receive() for _ in messages] == messages


def test_a_frame_cut_in_two_at_any_byte_arrives_unchanged(rig: Rig) -> None:
    near, far = rig.tunnel()
    cut = 0
    while True:
        data = near.sealed(b"one", b"two")
        if cut >= len(data):
            break
        near.write(data[:cut])
        rig.rounds(1)
        near.write(data[cut:])
        assert [far.receive(), far.receive()] == [b"one", b"two"]
        cut += 1


def test_random_cuts_with_other_links_between_them_mix_nothing(rig: Rig) -> None:
    chance = random.Random(7)
    tunnels = [rig.tunnel() for _ in range(4)]
    messages = [
        [chance.randbytes(chance.choice([0, 5, 900, 20_000, 60_000])) for _ in range(12)] for _ in tunnels
    ]
    rest = [near.sealed(*messages[i]) for i, (near, _) in enumerate(tunnels)]
    while any(rest):
        i = chance.choice([i for i, data in enumerate(rest) if data])
        size = chance.choice([1, 3, 8, 100, 5000, 50_000])
        tunnels[i][0].write(rest[i][:size])
        rest[i] = rest[i][size:]
        rig.rounds(1)
    for i, (_, far) in enumerate(tunnels):
        assert [far.receive() for _ in messages[i]] == messages[i]


def test_what_a_peer_does_not_read_is_kept_and_its_partner_is_not_read(rig: Rig) -> None:
    near, far = rig.tunnel()
    size, messages = fill(rig)
    data = near.sealed(*messages)
    sent = 0
    while near.link.reading:
        sent += near.sock.send(data[sent : sent + size])
        rig.rounds(1)
    assert OUTPUT_HIGH_WATER < len(far.link.outbox) < OUTPUT_HIGH_WATER + 2 * 2**18
    while len(far.link.outbox) > OUTPUT_LOW_WATER:
        assert not near.link.reading
        far.has_message()
        rig.rounds(1)
    assert near.link.reading
    while sent < len(data):
        try:
            sent += near.sock.send(data[sent : sent + size])
        except BlockingIOError:
            pass
        far.has_message()
        rig.rounds(1)
    rig.until(lambda: far.has_message() and len(far.messages) == len(messages))
    assert far.messages == messages


def test_keepalives_go_on_while_a_reader_pauses_and_its_partner_is_not_given_up(rig: Rig) -> None:
    near, far = rig.tunnel()
    _, messages = fill(rig)
    data = near.sealed(*messages)
    sent = 0
    while near.link.reading:
        sent += near.sock.send(data[sent : sent + 50_000])
        rig.rounds(1)
    for _ in range(10):
        rig.advance(IDLE_TIMEOUT / 4)
        far.send(b"I live")  # who does not read may still speak
        assert near.receive() == b"I live"
    assert not near.link.closed
    near.sock.close()
    far.sock.close()


def test_a_peer_that_never_reads_ends_after_the_stall_limit_and_its_partner_is_told() -> None:
    with running(Limits(stall=STALL, handshake_threads=1)) as rig:
        near, far = rig.tunnel()
        near.write(near.sealed(*[os.urandom(50_000)] * 8))
        rig.until(lambda: len(far.link.outbox) > 0)
        rig.advance(STALL / 2)
        far.send(b"I live")
        assert near.receive() == b"I live"
        near.send(b"so do I")
        rig.advance(STALL / 2 - 2)
        assert not far.link.closed
        rig.advance(18)
        assert rig.reason_of(far.link) is CloseReason.STALLED
        assert near.wait_for_end() == []
        near.sock.close()
        assert rig.reason_of(near.link) is CloseReason.PARTNER_ENDED


@pytest.mark.parametrize("messages", [[b"last words"], [os.urandom(60_000)] * 12])
def test_all_that_is_queued_is_delivered_before_the_end(rig: Rig, messages: list[bytes]) -> None:
    near, far = rig.tunnel()
    near.write(near.sealed(*messages))
    rig.until(lambda: near.link.received >= sum(map(len, messages)))
    near.sock.close()
    rig.rounds()
    assert far.wait_for_end() == messages
    far.sock.close()
    assert rig.reason_of(near.link) is CloseReason.PEER_CLOSED
    assert rig.reason_of(far.link) is CloseReason.PARTNER_ENDED


def test_what_came_before_a_fault_is_delivered_before_the_end(rig: Rig) -> None:
    near, far = rig.tunnel()
    near.write(near.sealed(b"good", b"better") + bytes(7) + b"\x28" + bytes(40))
    assert far.wait_for_end() == [b"good", b"better"]
    assert rig.reason_of(near.link) is CloseReason.PROTOCOL_ERROR


def test_who_is_finished_with_and_does_not_close_is_closed_after_a_moment(rig: Rig) -> None:
    near, far = rig.tunnel()
    near.sock.close()
    assert far.wait_for_end() == []
    rig.rounds()
    assert not far.link.closed
    rig.advance(LINGER_TIMEOUT + 0.5)
    assert rig.reason_of(far.link) is CloseReason.PARTNER_ENDED


def test_who_pauses_while_its_partner_leaves_keeps_its_connection_until_it_has_read_everything(
    rig: Rig,
) -> None:
    near, far = rig.tunnel()
    near.write(near.sealed(b"last words"))
    near.sock.close()
    rig.until(lambda: far.link.finishing is not None and not far.link.outbox)
    for _ in range(4):
        rig.advance(LINGER_TIMEOUT + 0.5)
        far.send(b"I live")
    assert not far.link.closed
    assert far.wait_for_end() == [b"last words"]
    rig.advance(LINGER_TIMEOUT + 0.5)
    assert rig.reason_of(far.link) is CloseReason.PARTNER_ENDED


def test_who_pauses_for_ever_while_its_partner_leaves_ends_after_the_stall_limit() -> None:
    with running(Limits(stall=STALL, handshake_threads=1)) as rig:
        near, far = rig.tunnel()
        near.write(near.sealed(b"last words"))
        near.sock.close()
        rig.until(lambda: far.link.finishing is not None and not far.link.outbox)
        for _ in range(int(STALL // LINGER_TIMEOUT) + 1):
            rig.advance(LINGER_TIMEOUT + 0.5)
        assert rig.reason_of(far.link) is CloseReason.PARTNER_ENDED


def test_what_a_finished_peer_still_sends_is_dropped(rig: Rig) -> None:
    near, far = rig.tunnel()
    near.sock.close()
    assert far.wait_for_end() == []
    for _ in range(20):
        far.write(far.sealed(os.urandom(50_000)))
    far.sock.close()
    assert rig.reason_of(far.link) is CloseReason.PARTNER_ENDED


def test_a_finished_peer_that_neither_reads_nor_closes_ends_after_the_stall_limit() -> None:
    with running(Limits(stall=STALL, handshake_threads=1)) as rig:
        near, far = rig.tunnel()
        near.write(near.sealed(*[os.urandom(50_000)] * 8))
        rig.until(lambda: len(far.link.outbox) > 0)
        near.sock.close()
        rig.until(lambda: far.link.finishing is not None)
        rig.advance(STALL + 1)
        assert rig.reason_of(far.link) is CloseReason.PARTNER_ENDED


def test_an_acceptor_that_is_gone_at_the_join_ends_the_connect_also_if_it_does_not_close(rig: Rig) -> None:
    listener = rig.listener()
    near = rig.admit().init(InitRole.CONNECT, listener.key)
    near.send(b"early")
    rig.until(lambda: near.link.note is not None and near.link.note.size > 0)  # type: ignore[attr-defined]
    far = rig.admit(listener.identity)
    far.send(InitConnection(InitRole.ACCEPT, near.key).encode())
    far.sock.close()
    rig.reason_of(far.link)
    assert near.wait_for_end() == []
    rig.advance(LINGER_TIMEOUT + 0.5)
    assert near.link.closed


@pytest.mark.parametrize("length", [2**20 + 2**17 + 1, 2**31, 2**40, 2**64 - 1])
def test_a_length_over_the_limit_ends_the_link_before_it_is_buffered(rig: Rig, length: int) -> None:
    near, far = rig.tunnel()
    used = rig.relay.host.budget.used
    near.write(length.to_bytes(8, "big"))
    assert rig.reason_of(near.link) is CloseReason.PROTOCOL_ERROR
    assert rig.relay.host.budget.used == used
    assert far.wait_for_end() == []


def test_the_bytes_of_a_connection_are_counted(rig: Rig) -> None:
    mate = rig.listener()
    received, sent = mate.link.received, mate.link.sent
    nonsense = mate.sealed(b"nonsense")
    mate.write(nonsense)
    assert rig.reason_of(mate.link) is CloseReason.PROTOCOL_ERROR
    assert mate.link.received == received + len(nonsense)
    assert mate.link.sent == sent


def test_messages_that_were_packed_very_small_wait_packed_until_their_reader_reads(rig: Rig) -> None:
    near, far = rig.tunnel()
    messages = [bytes(900_000)] * 20
    head = near_pointer(STRUCT, 0, sections(1, 1)) + word(1) + near_pointer(LIST, 0, elements(900_000))
    small = packed(head + messages[0])
    assert KaMessage.decode(small).message == messages[0]
    assert len(small) < 10_000
    for _ in messages:
        near.connection.secure_channel.send(small)
    near.write(near.connection.data_to_send())
    rig.rounds(20)
    assert len(far.link.outbox) < 6 * OUTPUT_HIGH_WATER
    rig.until(lambda: far.has_message() and len(far.messages) == len(messages))
    assert far.messages == messages


def test_a_tunnel_end_that_is_lost_while_its_rekey_is_answered_keeps_no_room(rig: Rig) -> None:
    near, far = rig.tunnel()
    near.connection.secure_channel.start_rekey(rig.loop.now)
    near.sock.send(near.connection.data_to_send() + (1 << 20).to_bytes(8, "big") + bytes(5000))
    near.sock.close()
    rig.until(lambda: near.link.closed)
    far.wait_for_end()
    assert rig.relay.host.budget.used == 0
    assert not rig.relay.host.budget._holders
