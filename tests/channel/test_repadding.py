"""A message with less padding is the same message to every reader, and its padding is drawn anew."""

from __future__ import annotations

import os
import random

import pytest

from offset_common.channel.glance import find_message
from offset_common.channel.repadding import Repadder
from offset_common.constants import MAX_PADDING_SENT
from offset_common.wire.messages import ChannelMessage
from tests.channel.layouts import ENCODERS
from tests.wire import oracle


def repad(packed: bytes, repadder: Repadder) -> bytes:
    _, content = find_message(bytearray(packed), len(packed), 0)
    assert content is not None
    return repadder.write(content)


@pytest.mark.parametrize("encode", ENCODERS)
@pytest.mark.parametrize("payload_size", [0, 1, 1000, 8100, 8200, 70_000, 600_000])
def test_another_implementation_reads_the_same_user_data(encode, payload_size):
    chance = random.Random(payload_size)
    repadder = Repadder(os.urandom)
    for padding_size in (1, 700, 8000, 9000, 65_535):
        packed = encode(chance.randbytes(payload_size), chance.randbytes(padding_size))
        anew = repad(packed, repadder)
        assert len(anew) <= len(packed) - padding_size + MAX_PADDING_SENT + 16
        before, after = oracle.read(ChannelMessage, packed), oracle.read(ChannelMessage, anew)
        assert isinstance(before, ChannelMessage)
        assert isinstance(after, ChannelMessage)
        assert after.content == before.content
        assert len(after.rand_padding) <= MAX_PADDING_SENT


def test_no_padding_is_used_twice():
    repadder = Repadder(os.urandom)
    packed = ENCODERS[0](b"message", bytes(900))
    paddings = [ChannelMessage.decode(repad(packed, repadder)).rand_padding for _ in range(300)]
    assert len({padding[:16] for padding in paddings if len(padding) >= 16}) > 250
    assert len({len(padding) for padding in paddings}) > 100
