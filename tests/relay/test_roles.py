"""Roles over the real loop: who is told what, when, and what ends with what, by a clock of our own."""

from __future__ import annotations

import os

import pytest
from offset_common.relay.buffers import PATIENCE_WITH_KEEPERS
from offset_common.relay.reasons import CloseReason
from offset_common.relay.roles import Fights

from offset_common.constants import IDLE_TIMEOUT, INIT_TIMEOUT, KEEPALIVE_INTERVAL, WAITING_CONNECT_TIMEOUT
from offset_common.identity import Identity
from offset_common.relay import roles
from offset_common.relay.limits import (
    EARLY_DATA_SIZE,
    LISTENER_CHANGE_DELAY,
    LISTENER_CHANGES_IN_WINDOW,
    LISTENER_CHANGES_WINDOW,
)
from offset_common.relay.registry import Announce
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import ChannelMessage, InitConnection, InitRole, KaMessage
from offset_common.wire.packing import pack_sparse
from tests.relay.rig import Mate, Rig

LATE = 2.0  # seconds, with the half second before: a link that was quiet for long is looked at now and then


def test_a_newcomer_that_does_not_say_what_it_wants_is_closed_in_time(rig: Rig) -> None:
    mate = rig.admit()
    rig.advance(INIT_TIMEOUT - 0.5)
    assert not mate.link.closed
    rig.advance(1.0)
    assert rig.reason_of(mate.link) is CloseReason.INIT_TIMEOUT


def test_a_listener_that_says_nothing_hears_of_us_and_is_closed_in_time(rig: Rig) -> None:
    mate = rig.listener()
    sent = mate.link.sent
    rig.advance(KEEPALIVE_INTERVAL - 0.5)
    assert mate.link.sent == sent
    rig.advance(LATE)
    assert mate.link.sent > sent
    rig.advance(IDLE_TIMEOUT - KEEPALIVE_INTERVAL - LATE)
    assert not mate.link.closed
    rig.advance(LATE)
    assert rig.reason_of(mate.link) is CloseReason.IDLE


def test_a_connect_that_nobody_accepts_is_closed_in_time_although_it_speaks(rig: Rig) -> None:
    listener = rig.listener()
    near = rig.admit().init(InitRole.CONNECT, listener.key)
    for _ in range(3):
        rig.advance(WAITING_CONNECT_TIMEOUT / 4)
        near.send(b"hello?")
        listener.reject(b"r" * 32)  # of nobody: it says that the listener lives
        rig.rounds()
        assert not near.link.closed
    rig.advance(WAITING_CONNECT_TIMEOUT / 4 + 0.5)
    assert rig.reason_of(near.link) is CloseReason.NOT_ACCEPTED


def test_a_tunnel_outlives_the_times_of_the_roles_before_it(rig: Rig) -> None:
    near, far = rig.tunnel()
    for _ in range(8):
        rig.advance(10.0)
        near.send(b"there")
        assert far.receive() == b"there"
        far.send(b"back")
        assert near.receive() == b"back"


@pytest.mark.parametrize("wait", [True, False])
def test_all_that_is_early_arrives_first_and_in_order_wherever_its_frames_are_cut(
    rig: Rig, wait: bool
) -> None:
    listener = rig.listener()
    near = rig.admit().init(InitRole.CONNECT, listener.key)
    early = [b"%d" % n * (n * 20) for n in range(40)]
    data = near.sealed(*early)
    assert listener.incoming() == near.key
    cut = len(data) // 2
    near.write(data[:cut])
    if wait:
        rig.until(lambda: near.link.received >= cut)
    far = rig.admit(listener.identity).init(InitRole.ACCEPT, near.key)
    near.write(data[cut:])
    near.send(b"late")
    assert [far.receive() for _ in range(41)] == [*early, b"late"]


@pytest.mark.parametrize("size", [100, 20_000, 100_000])
def test_what_an_acceptor_sends_with_its_accept_is_not_mixed_with_a_half_frame_of_the_connect(
    rig: Rig, size: int
) -> None:
    listener = rig.listener()
    near = rig.admit().init(InitRole.CONNECT, listener.key)
    assert listener.incoming() == near.key
    half = near.sealed(b"x" * size)
    near.write(half[: size // 2])
    rig.until(lambda: near.link.received >= min(size // 2, 20_000))
    far = rig.admit(listener.identity)
    far.send(InitConnection(InitRole.ACCEPT, near.key).encode(), b"first", b"y" * 10_000)
    assert near.receive() == b"first"
    assert near.receive() == b"y" * 10_000
    near.write(half[size // 2 :])
    assert far.receive() == b"x" * size


def test_a_waiting_connect_is_not_read_once_enough_is_kept(rig: Rig) -> None:
    listener = rig.listener()
    near = rig.admit().init(InitRole.CONNECT, listener.key)
    near.sock.setblocking(False)
    sent = 0
    message = near.sealed(b"x" * 10_000)
    while sent < 4_000_000:
        try:
            count = near.sock.send(message)
        except BlockingIOError:
            break
        assert count == len(message)
        sent += count
        message = near.sealed(b"x" * 10_000)
        rig.rounds(1)
    rig.rounds()
    assert not near.link.reading
    assert rig.relay.host.budget.used < 2 * EARLY_DATA_SIZE
    rig.advance(WAITING_CONNECT_TIMEOUT / 2)
    listener.reject(b"r" * 32)
    rig.advance(WAITING_CONNECT_TIMEOUT / 2 + 0.5)
    assert rig.reason_of(near.link) is CloseReason.NOT_ACCEPTED


def test_the_newest_listener_is_announced_what_waits_and_the_older_ends(rig: Rig) -> None:
    older = rig.listener()
    near = rig.admit().init(InitRole.CONNECT, older.key)
    assert older.incoming() == near.key
    newer = rig.listener(older.identity)
    assert rig.reason_of(older.link) is CloseReason.REPLACED
    assert newer.incoming() == near.key
    newer.reject(near.key)
    assert rig.reason_of(near.link) is CloseReason.REJECTED


def fight(rig: Rig, identity: Identity) -> Mate:
    """Let one key change hands as often as it may at once; return its listener."""
    listener = rig.listener(identity)
    for _ in range(LISTENER_CHANGES_IN_WINDOW):
        older, listener = listener, rig.listener(identity)
        assert rig.reason_of(older.link) is CloseReason.REPLACED
    return listener


def test_a_key_that_changes_hands_too_often_waits_a_moment_for_the_next_time(rig: Rig) -> None:
    identity = Identity.generate()
    holder = fight(rig, identity)
    newest = rig.listener(identity)
    rig.advance(LISTENER_CHANGE_DELAY - 0.5)
    assert not holder.link.closed
    rig.advance(1.0)
    assert rig.reason_of(holder.link) is CloseReason.REPLACED
    near = rig.admit().init(InitRole.CONNECT, identity.public_key)
    assert newest.incoming() == near.key


def test_of_those_who_wait_a_moment_the_newest_wins(rig: Rig) -> None:
    identity = Identity.generate()
    fight(rig, identity)
    delayed = [rig.listener(identity) for _ in range(12)]
    rig.advance(LISTENER_CHANGE_DELAY + 0.5)
    assert [mate.link.closed for mate in delayed] == [True] * 11 + [False]


def test_a_delayed_listen_whose_connection_ended_takes_nothing_over(rig: Rig) -> None:
    identity = Identity.generate()
    holder = fight(rig, identity)
    delayed = rig.listener(identity)
    delayed.sock.close()
    assert rig.reason_of(delayed.link) is CloseReason.PEER_CLOSED
    rig.advance(LISTENER_CHANGE_DELAY + 0.5)
    assert not holder.link.closed


def test_a_delayed_listener_may_say_what_a_listener_says(rig: Rig) -> None:
    identity = Identity.generate()
    fight(rig, identity)
    delayed = rig.listener(identity)
    delayed.reject(b"r" * 32)
    rig.advance(LISTENER_CHANGE_DELAY + 0.5)
    near = rig.admit().init(InitRole.CONNECT, identity.public_key)
    assert delayed.incoming() == near.key


def test_a_fight_is_told_to_the_operator_and_folded(rig: Rig) -> None:
    identity = Identity.generate()
    fight(rig, identity)
    for _ in range(30):
        rig.listener(identity)
    lines = [line for line in rig.log.lines if line.startswith("two programs listen as key=")]
    assert len(lines) == 1
    assert lines[0].startswith(f"two programs listen as key={identity.public_key.hex()[:8]}")


def test_a_fight_over_one_key_does_not_delay_another(rig: Rig) -> None:
    fight(rig, Identity.generate())
    older = rig.listener()
    rig.listener(older.identity)
    assert rig.reason_of(older.link) is CloseReason.REPLACED


def test_after_a_minute_a_key_may_change_hands_at_once_again() -> None:
    fights = Fights()
    assert [fights.must_wait(b"k", "older", 0.0) for _ in range(7)] == [False] * 6 + [True]
    assert fights.must_wait(b"k", "older", LISTENER_CHANGES_WINDOW - 1)
    assert not fights.must_wait(b"k", "older", LISTENER_CHANGES_WINDOW)


def test_a_first_listen_is_no_fight() -> None:
    fights = Fights()
    assert not any(fights.must_wait(b"k", None, 0.0) for _ in range(100))


def test_fights_of_long_ago_are_forgotten() -> None:
    fights = Fights()
    for number in range(1000):
        fights.must_wait(b"%d" % number, "older", float(number))
        assert len(fights._changes) <= LISTENER_CHANGES_WINDOW


def test_listens_of_several_keys_that_wait_a_moment_wait_all_of_it(rig: Rig) -> None:
    identities = [Identity.generate() for _ in range(2)]
    waiting = []
    for identity in identities:
        fight(rig, identity)
        waiting.append(rig.listener(identity))
        rig.advance(LISTENER_CHANGE_DELAY * 0.7)
    listener_of = rig.relay.registry.listener_of
    assert listener_of(identities[0].public_key) is waiting[0].link
    assert listener_of(identities[1].public_key) is not waiting[1].link
    rig.advance(LISTENER_CHANGE_DELAY * 0.7)
    assert listener_of(identities[1].public_key) is waiting[1].link


def test_of_listens_for_one_key_that_wait_a_moment_the_newest_is_left_and_waits_no_longer(rig: Rig) -> None:
    identity = Identity.generate()
    fight(rig, identity)
    mates = []
    for _ in range(4):
        mates.append(rig.listener(identity))
        rig.advance(LISTENER_CHANGE_DELAY / 5)
    assert [rig.reason_of(mate.link) for mate in mates[:-1]] == [CloseReason.REPLACED] * 3
    rig.advance(LISTENER_CHANGE_DELAY / 2)
    assert rig.relay.registry.listener_of(identity.public_key) is mates[-1].link


def early_bomb(mate: Mate) -> bytes:
    """Seal a mebibyte of zeros into a kilobyte."""
    user = KaMessage(bytes(1 << 20)).encode(pack_sparse)
    return encode_frame(mate.connection.secure_channel.sending.seal(ChannelMessage(b"", user).encode()))


def test_early_messages_that_unpack_to_far_more_than_they_were_stay_within_the_buffers(rig: Rig) -> None:
    listener = rig.listener()
    budget = rig.relay.host.budget
    for _ in range(20):
        mate = rig.admit().init(InitRole.CONNECT, listener.key)
        mate.write(early_bomb(mate))
        rig.rounds(3)
        assert budget.used <= budget.limit
    assert budget.used > budget.limit // 2
    rig.advance(1.0)
    assert CloseReason.LIMIT_BUFFERS in {end.reason for end in rig.ends}


def test_what_waiting_connects_have_begun_to_send_gives_way_to_others(rig: Rig) -> None:
    listener = rig.listener()
    for _ in range(12):
        mate = rig.admit().init(InitRole.CONNECT, listener.key)
        mate.write((200_000).to_bytes(8, "big") + bytes(20_000))
    rig.rounds(5)
    budget = rig.relay.host.budget
    assert budget.used > 200_000
    near, far = rig.tunnel()
    budget.limit = budget.used
    payload = os.urandom(60_000)
    frame = near.sealed(payload)
    near.write(frame[:9])
    rig.rounds(3)
    rig.advance(PATIENCE_WITH_KEEPERS + 0.1)
    near.write(frame[9:])
    assert far.receive() == payload


def test_a_listener_that_reads_no_announcements_does_not_keep_them_without_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "MOST_ANNOUNCED", 100_000)
    listener = rig.listener()
    link = listener.link
    for number in range(10_000):
        rig.relay.roles._announce(Announce(link, number.to_bytes(32, "big")))
        if link.closed:
            break
        assert len(link.outbox) < 101_000
    assert rig.reason_of(link) is CloseReason.LIMIT_BUFFERS
