"""Costly input has its share of the loop's time, and what is cheap does not wait for it."""

from __future__ import annotations

import os
import time

import pytest
from offset_common.relay.link import Link
from offset_common.relay.ration import Ration
from offset_common.relay.reasons import CloseReason

from offset_common.wire.capnp import data_pointer, discriminant_word, segment_table, struct_pointer
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import ChannelMessage, InitConnection, InitRole, KaMessage
from offset_common.wire.packing import pack
from tests.channel.layouts import as_released_user
from tests.relay.rig import Mate, Rig

LARGE = 100_000  # bytes
WORDS = 60_000  # so that a frame fits what a socket takes at once


def as_released_frame(mate: Mate, message: KaMessage, padding: int) -> bytes:
    """Seal a message as released nodes encode it, with much padding."""
    plaintext = as_released_user(message.encode(), os.urandom(padding))
    return encode_frame(mate.connection.secure_channel.sending.seal(plaintext))


def throw(mates: list[Mate]) -> None:
    """Let all send a costly frame at the same time."""
    frames = [slow_frame(mate, WORDS) for mate in mates]
    for mate, frame in zip(mates, frames):
        assert mate.sock.send(frame) == len(frame)


def slow_frame(mate: Mate, words: int) -> bytes:
    """Seal a message whose payload is words of a byte each, packed one by one."""
    head = struct_pointer(0, 1, 1) + discriminant_word(1) + data_pointer(0, 8 * words)
    user = pack(segment_table(3 + words)) + pack(head) + b"\x01\x05" * words
    return encode_frame(mate.connection.secure_channel.sending.seal(ChannelMessage(b"", user).encode()))


def test_after_a_costly_frame_the_next_ones_wait_and_get_their_turns_in_the_order_of_coming() -> None:
    ration: Ration[str] = Ration()
    assert ration.is_free("one", 10.0)
    ration.spent(1, LARGE, 0.1, 10.0)
    assert not ration.is_free("two", 10.2)
    for each in ("one", "two", "gone", "two"):
        ration.wait(each)
    ration.forget("gone")
    assert ration.next_turn(10.2) is None
    due = ration.next_time()
    assert due is not None
    assert 10.4 < due <= 10.6
    assert not ration.is_free("fresh", due)  # nobody overtakes those who wait
    assert ration.next_turn(due) == "one"
    assert [ration.is_free(each, due) for each in ("one", "two", "fresh")] == [True, False, False]
    assert [ration.next_turn(due), ration.next_turn(due)] == ["two", None]
    assert ration.is_free("fresh", due)
    assert ration.next_time() is None


def test_frames_that_are_quickly_done_let_nobody_wait() -> None:
    ration: Ration[str] = Ration()
    ration.spent(1, LARGE, 0.001, 10.0)
    ration.spent(50, 50 * 100, 0.0006, 10.0)
    assert ration.is_free("two", 10.0)


def test_costly_frames_of_several_tunnels_arrive_one_after_the_other_with_rests_between(rig: Rig) -> None:
    tunnels = [rig.tunnel() for _ in range(3)]
    message = (b"\x05" + bytes(7)) * WORDS
    throw([near for near, _ in tunnels])
    arrivals = []
    waiting = dict(enumerate(far for _, far in tunnels))
    most_waiting = 0

    def one_more() -> bool:
        nonlocal most_waiting
        most_waiting = max(most_waiting, len(rig.relay.host.ration))
        for number, far in list(waiting.items()):
            if far.has_message():
                assert far.messages == [message]
                arrivals.append(time.monotonic())
                del waiting[number]
        return not waiting

    rig.until(one_more)
    assert most_waiting == 2
    # A turn takes 5 ms or more on any machine of today, and the rest between two is four times that.
    assert min(later - earlier for earlier, later in zip(arrivals, arrivals[1:])) > 0.01


def test_messages_in_known_layouts_go_on_beside_costly_frames_that_wait(rig: Rig) -> None:
    quick_near, quick_far = rig.tunnel()
    payload = os.urandom(60_000)
    quick_near.send(payload)
    assert quick_far.receive() == payload
    costly = [rig.tunnel() for _ in range(4)]
    throw([near for near, _ in costly])
    rig.until(lambda: len(rig.relay.host.ration) > 0)
    quick_near.send(payload, b"small")
    assert [quick_far.receive(), quick_far.receive()] == [payload, b"small"]
    assert len(rig.relay.host.ration) > 0
    for _, far in costly:
        assert far.receive()


def test_a_link_that_ends_while_it_waits_is_forgotten(rig: Rig) -> None:
    first, second = rig.tunnel(), rig.tunnel()
    throw([first[0], second[0]])
    ration = rig.relay.host.ration
    rig.until(lambda: len(ration) > 0)
    for near, far in (first, second):
        near.sock.close()
        far.sock.close()
    rig.until(lambda: all(near.link.closed for near, _ in (first, second)))
    assert len(ration) == 0


class Elsewhere:
    """Another process that serves a link."""

    def finish(self, link: Link, reason: CloseReason) -> None:
        """Do nothing: it is not there."""

    def close(self, link: Link, reason: CloseReason) -> None:
        """Do nothing: it is not there."""


def test_a_link_that_moves_to_a_worker_while_it_waits_is_not_called_back(rig: Rig) -> None:
    host = rig.relay.host
    link = rig.admit().link
    host.defer(link)
    host.budget.used += host.budget.limit
    assert not host.budget.reserve(link, 100_000, 0, rig.loop.now)
    host.budget.used -= host.budget.limit
    link.detach(Elsewhere())
    rig.rounds(3)
    assert len(host.ration) == 0
    assert len(host.budget) == 0
    link.close(CloseReason.PEER_CLOSED)


@pytest.mark.parametrize("padding", [0, 32_000, 65_535])
def test_what_released_nodes_say_does_not_wait_behind_costly_frames(rig: Rig, padding: int) -> None:
    costly = [rig.tunnel() for _ in range(4)]
    near, far = rig.tunnel()
    newcomer = rig.admit()
    keepalive, init = KaMessage(None), KaMessage(InitConnection(InitRole.LISTEN).encode())
    frames = [as_released_frame(near, keepalive, padding), as_released_frame(newcomer, init, padding)]
    throw([each for each, _ in costly])
    rig.until(lambda: len(rig.relay.host.ration) == 3)
    for mate, frame in zip((near, newcomer), frames):
        mate.write(frame)
    near.send(b"behind it")
    rig.until(lambda: newcomer.link.handler.role == "listener")
    assert far.receive() == b"behind it"
    assert len(rig.relay.host.ration) > 0


def test_what_is_kept_of_costly_frames_gives_way_to_others(rig: Rig) -> None:
    costly = [rig.tunnel() for _ in range(4)]
    throw([each for each, _ in costly])
    host = rig.relay.host
    rig.until(lambda: len(host.ration) == 3)
    near, far = rig.tunnel()
    payload = os.urandom(60_000)
    frame = near.sealed(payload)
    host.budget.limit = host.budget.used + 10_000
    near.write(frame[:30_000])
    rig.rounds(2)
    near.write(frame[30_000:])
    assert far.receive() == payload
    assert CloseReason.LIMIT_BUFFERS in {end.reason for end in rig.ends}
    assert not near.link.closed


def test_all_bytes_behind_a_costly_frame_count_as_buffered(rig: Rig) -> None:
    host = rig.relay.host
    near, _ = rig.tunnel()
    frames = [slow_frame(near, 2600) for _ in range(10)]
    near.write(frames[0][:4900])
    rig.rounds(3)
    host.ration.spent(1, 1, 1.0, rig.loop.now)
    rest = frames[0][4900:] + b"".join(frames[1:])
    near.write(rest)
    rig.until(lambda: len(host.ration) == 1)
    assert len(near.link.inbox) > 10_000
    assert host.budget.used == len(near.link.inbox)
