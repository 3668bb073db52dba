"""Data that nobody takes: early data of connects that wait, and messages for a reader that does not read."""

from __future__ import annotations

import pytest

from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import ChannelMessage, KaMessage
from offset_common.wire.packing import pack_sparse
from tests.attack.crowd import Crowd
from tests.attack.siege import MIB, Siege
from tests.attack.supplies import numbers, push

KIB = 1024


def test_connects_that_wait_and_send_without_end_are_read_no_further_than_is_kept(siege: Siege) -> None:
    crowd = siege.crowd()
    callers = crowd.connect(20, crowd.listen().identity.public_key)
    for caller in callers:
        push(caller, 64 * KIB, 64 * MIB // (64 * KIB))
    crowd.run_for(1.5)
    assert not any(each.ended for each in callers)
    assert all(each.waiting_to_send for each in callers)


def assert_a_large_message_passes(crowd: Crowd) -> None:
    """See that there is room for a large message of somebody else."""
    near, far = crowd.tunnels(1)[0]
    push(near, 1 * MIB, 1)
    assert crowd.run(lambda: len(far.messages) == 1, 5.0)


@pytest.mark.slow
@pytest.mark.parametrize("count", [600, pytest.param(2000, marks=pytest.mark.slow)])
def test_early_data_of_very_many_stays_within_the_budget(siege: Siege, count: int) -> None:
    crowd = siege.crowd()
    callers = crowd.connect(count, crowd.listen().identity.public_key)
    for caller in callers:
        push(caller, 16 * KIB, 100)
    crowd.run_for(3.0)
    assert_a_large_message_passes(crowd)


def test_an_acceptor_that_does_not_read_stops_the_one_who_pushes(siege: Siege) -> None:
    crowd = siege.crowd()
    near, far = crowd.tunnels(1)[0]
    far.stop_reading()
    push(near, 1 * MIB, 256)
    crowd.run_for(1.5)
    assert near.waiting_to_send and not near.ended
    far.resume_reading()
    assert crowd.run(lambda: len(far.messages) == 256, 30.0)
    assert numbers(far.messages) == list(range(256))


@pytest.mark.slow
@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", [1 * KIB, 256 * KIB, 1 * MIB])
def test_many_acceptors_that_do_not_read_stay_within_the_budget(siege: Siege, count: int, size: int) -> None:
    crowd = siege.crowd()
    pairs = crowd.tunnels(count)
    for near, far in pairs:
        far.stop_reading()
        push(near, size, 256 * MIB // size // count + 1)
    crowd.run_for(3.0)
    assert_a_large_message_passes(crowd)


@pytest.mark.slow
def test_messages_that_unpack_to_far_more_than_they_were_stay_within_the_budget(siege: Siege) -> None:
    crowd = siege.crowd()
    callers = crowd.connect(200, crowd.listen().identity.public_key)
    user = KaMessage(bytes(MIB)).encode(pack_sparse)
    bomb = ChannelMessage(b"", user).encode()  # a kilobyte
    for caller in callers:
        assert caller.connection is not None
        sending = caller.connection.secure_channel.sending
        caller.send_bytes(b"".join(encode_frame(sending.encrypt(bomb)) for _ in range(20)))
    crowd.run_for(3.0)
