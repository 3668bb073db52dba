"""Frames assembled from an observer's calls, and dissected: recorded ones and a conversation in memory."""

from __future__ import annotations

import base64
import json

import pytest

from offset_common.constants import KEEPALIVE_INTERVAL, REKEY_INTERVAL
from offset_common.errors import PeerError
from offset_common.identity import Identity
from offset_common.tools.dissector import dissect, packed_parts
from offset_common.tools.frame_assembler import RECEIVED, SENT, Frame, FrameAssembler
from offset_common.tools.terminal import Style
from offset_common.tools.trace import frame_lines
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import (
    ExchangeDh,
    ExchangeRandNonce,
    IncomingConnection,
    InitConnection,
    InitRole,
    RejectConnection,
)
from tests.channel import peers
from tests.commands import ROOT

HANDSHAKES = json.loads((ROOT / "tests" / "vectors" / "handshake.json").read_text())
OPENING = ["version", "ExchangeRandNonce", "ExchangeDh"]


@pytest.mark.parametrize("recorded", HANDSHAKES)
@pytest.mark.parametrize(("index", "kind"), [(1, ExchangeRandNonce), (2, ExchangeDh)])
def test_packed_fields_of_the_original_are_found_in_order(recorded, index, kind):
    for direction in (SENT, RECEIVED):
        payloads = [base64.b64decode(f["payload"]) for f in recorded["frames"] if f["direction"] == direction]
        parts = packed_parts(payloads[index], kind.decode(payloads[index]))
        assert b"".join(part.data for part in parts) == payloads[index]
        named = [part.name for part in parts if part.style is Style.FIELD]
        fields = ["dhPublicKey", "randNonce", "keySalt", "signature"]
        if kind is ExchangeRandNonce:
            fields = ["randNonce", "srcPublicKey", "optDestPublicKey"][: 3 if direction == SENT else 2]
        assert named == fields


class Conversation:
    """A node and a relay in memory, with the frames that the node sends and receives."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.assembler = FrameAssembler("node", self.frames.append)
        self.relay = peers.relay()
        self.node = peers.node(observer=self.assembler.observe)
        self.exchange(0.0)

    def exchange(self, now: float) -> None:
        """Deliver data in both directions until there is none left."""
        peers.converse(self.node, self.relay, now)

    def names(self) -> list[tuple[str, str]]:
        return [(frame.direction, frame.name) for frame in self.frames]


@pytest.fixture
def conversation() -> Conversation:
    result = Conversation()
    assert sorted(result.names()) == sorted((way, name) for way in (SENT, RECEIVED) for name in OPENING)
    result.frames.clear()
    return result


def test_listener_messages_depend_on_their_direction(conversation):
    key = Identity.generate().public_key
    conversation.node.send(InitConnection(InitRole.LISTEN).encode(), 1.0)
    conversation.exchange(1.0)
    conversation.relay.send(IncomingConnection(key).encode(), 2.0)
    conversation.exchange(2.0)
    conversation.node.send(RejectConnection(key).encode(), 3.0)
    conversation.exchange(3.0)
    assert conversation.names() == [
        (SENT, "InitConnection listen"),
        (RECEIVED, "IncomingConnection"),
        (SENT, "RejectConnection"),
    ]
    assert key[:16].hex(" ") in "\n".join(frame_lines(1, conversation.frames[-1], colour=False))


def test_keepalives_and_rekeys_are_shown_both_ways(conversation):
    now = KEEPALIVE_INTERVAL
    conversation.node.handle_time(now)
    conversation.relay.handle_time(now)
    conversation.exchange(now)
    assert sorted(conversation.names()) == [(RECEIVED, "keepAlive"), (SENT, "keepAlive")]
    conversation.frames.clear()
    while now + KEEPALIVE_INTERVAL < REKEY_INTERVAL:
        now += KEEPALIVE_INTERVAL
        conversation.node.handle_time(now)
        conversation.relay.handle_time(now)
        conversation.exchange(now)
    conversation.node.handle_time(REKEY_INTERVAL)
    conversation.exchange(REKEY_INTERVAL)
    rekeys = [frame for frame in conversation.frames if frame.name == "Rekey"]
    assert [frame.direction for frame in rekeys] == [SENT, RECEIVED]
    for frame in rekeys:
        titles = [section.title for section in dissect(frame)]
        assert titles == ["frame", "ChannelMessage", "Rekey"]


def test_frames_sent_together_keep_their_own_layers(conversation):
    conversation.node.send(InitConnection(InitRole.CONNECT, bytes(32)).encode(), 1.0)
    for number in range(3):
        conversation.node.send(b"message %d" % number, 1.0)
    assert conversation.frames == []
    assert not conversation.assembler.settled
    conversation.exchange(1.0)
    assert conversation.assembler.settled
    assert [frame.layers[-1] for frame in conversation.frames[1:]] == [(b"message %d" % n,) for n in range(3)]


@pytest.mark.parametrize("payload", [b"", b"x" * 27, b"x" * 300])
def test_an_invalid_frame_is_shown_as_unreadable(payload, conversation):
    conversation.node.receive_data(encode_frame(payload))
    with pytest.raises(PeerError):
        conversation.node.next_event(1.0)
    conversation.assembler.finish()
    assert conversation.names() == [(RECEIVED, "unreadable")]
    assert b"".join(p.data for p in dissect(conversation.frames[0])[0].parts) == encode_frame(payload)
    assert frame_lines(1, conversation.frames[0], colour=False)


def test_an_invalid_relay_message_is_shown_as_unreadable(conversation):
    conversation.node.send(InitConnection(InitRole.LISTEN).encode(), 1.0)
    conversation.exchange(1.0)
    conversation.relay.send(b"no message of a relay", 2.0)
    conversation.exchange(2.0)
    assert conversation.names()[-1] == (RECEIVED, "unreadable")
    assert frame_lines(1, conversation.frames[-1], colour=False)
