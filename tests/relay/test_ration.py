"""Costly input has its share of the loop's time, and what is cheap does not wait for it."""

from __future__ import annotations

import os
import time

from offset_common.constants import MAX_FRAME_SIZE
from offset_common.relay.link import Link
from offset_common.relay.ration import Ration
from offset_common.relay.reasons import CloseReason
from offset_common.wire.capnp import data_pointer, discriminant_word, segment_table, struct_pointer
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import ChannelMessage
from offset_common.wire.packing import pack
from tests.relay.rig import Mate, Rig

LARGE = 100_000  # bytes
WORDS = 60_000  # so that a frame fits what a socket takes at once


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
    assert ration.limit("one", 10.0) == MAX_FRAME_SIZE
    ration.spent("one", LARGE, 0.1, 10.0)
    assert ration.limit("one", 10.2) == 0
    assert 1000 < ration.limit("two", 10.2) < LARGE
    for each in ("one", "two", "gone", "two"):
        ration.wait(each)
    ration.forget("gone")
    assert ration.next_free(10.2) is None
    due = ration.next_time()
    assert due is not None
    assert 10.4 < due <= 10.6
    assert ration.limit("one", due) == MAX_FRAME_SIZE
    assert [ration.next_free(due) for _ in range(3)] == ["one", "two", None]
    assert ration.next_time() is None


def test_a_frame_that_is_quickly_done_lets_nobody_wait() -> None:
    ration: Ration[str] = Ration()
    ration.spent("one", LARGE, 0.001, 10.0)
    assert ration.limit("two", 10.0) == MAX_FRAME_SIZE


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
