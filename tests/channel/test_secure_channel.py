"""Rekeys preserve the order and content of messages; a peer that abuses them is refused."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offset_common.channel.cipher import CipherState
from offset_common.channel.handshake import ChannelKeys
from offset_common.channel.secure_channel import SecureChannel
from offset_common.constants import MAX_KEEPALIVE_PADDING_SENT, REKEY_INTERVAL
from offset_common.errors import DecryptionError, RekeyError
from offset_common.wire.messages import ChannelMessage, Rekey
from tests.channel.peers import Randomness
from tests.channel.recorded import decrypt_message
from tests.channel.small_order import X25519_KEYS

KEY_OF_ONE = b"\x11" * 32
KEY_OF_OTHER = b"\x22" * 32
PEER = bytes(32)


def channels() -> tuple[SecureChannel, SecureChannel]:
    """Return both sides of a channel."""
    one = SecureChannel(ChannelKeys(KEY_OF_ONE, KEY_OF_OTHER), PEER, 0.0, Randomness(1))
    other = SecureChannel(ChannelKeys(KEY_OF_OTHER, KEY_OF_ONE), PEER, 0.0, Randomness(2))
    return one, other


def take(channel: SecureChannel) -> list[bytes]:
    """Return the encrypted payloads to send, and forget them."""
    payloads = list(channel.outgoing)
    channel.outgoing.clear()
    return payloads


def carry(sender: SecureChannel, receiver: SecureChannel, now: float = 0.0) -> list[bytes]:
    """Deliver what the sender sends; return the user data."""
    opened = [receiver.receive(payload, now) for payload in take(sender)]
    return [user for user in opened if user is not None]


def rekey(starter: SecureChannel, answerer: SecureChannel, now: float = 0.0) -> None:
    """Complete a rekey that one side starts and the other answers."""
    starter.start_rekey(now)
    carry(starter, answerer, now)
    carry(answerer, starter, now)


def forge(channel: SecureChannel, plaintext: bytes) -> bytes:
    """Encrypt any plaintext under the key of the channel."""
    return channel.sending.encrypt(plaintext)


def may_rekey(channel: SecureChannel) -> bool:
    """Start a rekey; return whether it is sent: none is while another is unanswered."""
    channel.start_rekey(now=0.0)
    return take(channel) != []


def keys_of(channel: SecureChannel) -> tuple[bytes, bytes]:
    """Return the current sending and receiving key."""
    return channel.sending.key, channel.receiving.key


# Rekey.


def test_answered_rekey_changes_both_keys_on_both_sides():
    one, other = channels()
    one.start_rekey(now=5.0)
    (asked,) = take(one)
    assert not may_rekey(one)
    assert keys_of(one) == (KEY_OF_ONE, KEY_OF_OTHER), "the old keys are used until the answer"
    assert other.receive(asked, now=6.0) is None
    (answered,) = take(other)
    assert one.receive(answered, now=7.0) is None
    assert take(one) == []
    assert keys_of(one) == keys_of(other)[::-1]
    assert not {KEY_OF_ONE, KEY_OF_OTHER} & set(keys_of(one))
    assert (one.rekey_at, other.rekey_at) == (7.0 + REKEY_INTERVAL, 6.0 + REKEY_INTERVAL)
    assert may_rekey(one) and may_rekey(other)


def test_simultaneous_rekeys_need_no_answer():
    one, other = channels()
    one.start_rekey(now=0.0)
    other.start_rekey(now=0.0)
    (from_one,), (from_other,) = take(one), take(other)
    assert one.receive(from_other, now=0.0) is None
    assert other.receive(from_one, now=0.0) is None
    assert take(one) == take(other) == []
    assert keys_of(one) == keys_of(other)[::-1]
    assert KEY_OF_ONE not in keys_of(one)
    one.send(b"after")
    other.send(b"after, too")
    assert (carry(one, other), carry(other, one)) == ([b"after"], [b"after, too"])


def test_old_key_is_kept_until_the_new_one_is_used():
    one, other = channels()
    one.start_rekey(now=0.0)
    one.send(b"still under the old key")
    asked, old = take(one)
    other.receive(asked, now=0.0)
    assert other.receive(old, now=0.0) == b"still under the old key"
    carry(other, one)
    one.send(b"under the new key")
    assert carry(one, other) == [b"under the new key"]
    late = CipherState(KEY_OF_ONE, 2).encrypt(ChannelMessage(b"", b"too late under the old key").encode())
    with pytest.raises(DecryptionError):
        other.receive(late, now=0.0)


def test_message_under_neither_key_is_refused():
    one, other = channels()
    rekey(one, other)
    with pytest.raises(DecryptionError):
        other.receive(CipherState(bytes(32)).encrypt(b"forged"), now=0.0)
    one.send(b"true")
    assert carry(one, other) == [b"true"]


def test_second_rekey_under_a_replaced_key_is_an_error():
    one, other = channels()
    one.start_rekey(now=0.0)
    other.receive(take(one)[0], now=0.0)
    second = ChannelMessage(b"", Rekey(b"\x09" * 32, bytes(32)))
    with pytest.raises(RekeyError, match="second Rekey"):
        other.receive(forge(one, second.encode()), now=0.0)


def test_fifth_rekey_within_a_minute_is_refused():
    one, other = channels()
    for second in range(4):
        rekey(one, other, now=1000.0 + second)
    one.start_rekey(now=1059.9)
    with pytest.raises(RekeyError, match="more than 4"):
        carry(one, other, now=1059.9)


def test_four_rekeys_in_each_minute_are_answered():
    one, other = channels()
    for minute in range(3):
        for second in range(4):
            rekey(one, other, now=60.0 * minute + second)
    one.send(b"alive")
    assert carry(one, other) == [b"alive"]


def test_answers_to_our_own_rekeys_are_not_counted():
    one, other = channels()
    for minute in range(10):
        rekey(one, other, now=60.0 * minute)
    rekey(other, one, now=540.0)
    assert keys_of(one) == keys_of(other)[::-1]


@pytest.mark.parametrize("pending", [False, True], ids=["asked", "answered"])
@pytest.mark.parametrize("key", X25519_KEYS, ids=lambda key: key.hex()[:16])
def test_rekey_with_small_order_key_is_not_answered(key, pending):
    one, other = channels()
    if pending:
        other.start_rekey(now=0.0)
        take(other)
    with pytest.raises(RekeyError, match="small order"):
        other.receive(forge(one, ChannelMessage(b"", Rekey(key, bytes(32))).encode()), now=0.0)
    assert take(other) == []
    assert keys_of(other) == (KEY_OF_OTHER, KEY_OF_ONE)


class _Side:
    """One side: its channel, the payloads in transit to it, and its sent and received messages."""

    def __init__(self, channel: SecureChannel) -> None:
        self.channel = channel
        self.in_transit: deque[bytes] = deque()
        self.sent: list[bytes] = []
        self.received: list[bytes] = []

    def deliver(self, now: float, peer: _Side) -> None:
        """Deliver the next payload in transit, and send the answers to it."""
        if self.in_transit:
            user = self.channel.receive(self.in_transit.popleft(), now)
            if user is not None:
                self.received.append(user)
            peer.in_transit += take(self.channel)


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["send", "rekey", "deliver", "deliver"]), st.booleans()), max_size=60
)


@settings(max_examples=150)
@given(ACTIONS)
def test_rekeys_at_any_time_lose_or_reorder_nothing(actions):
    one, other = (_Side(channel) for channel in channels())
    now = 0.0
    for action, first in actions:
        me, peer = (one, other) if first else (other, one)
        if action == "send":
            me.sent.append(b"message %d" % len(me.sent))
            me.channel.send(me.sent[-1])
        elif action == "rekey":
            now += 61.0  # as often as the limit allows
            me.channel.start_rekey(now)
        else:
            me.deliver(now, peer)
        peer.in_transit += take(me.channel)
    while one.in_transit or other.in_transit:
        one.deliver(now, other)
        other.deliver(now, one)
    assert (one.received, other.received) == (other.sent, one.sent)
    assert keys_of(one.channel) == keys_of(other.channel)[::-1]
    assert may_rekey(one.channel) and may_rekey(other.channel)


# Padding.


@pytest.mark.parametrize("max_padding", [255, MAX_KEEPALIVE_PADDING_SENT])
def test_padding_has_every_size_up_to_its_limit(max_padding):
    drawn = [bytes([first]) + bytes(range(1, 1 + max_padding)) for first in range(256)]
    source = iter(drawn)
    channel = SecureChannel(ChannelKeys(KEY_OF_ONE, KEY_OF_OTHER), PEER, 0.0, lambda size: next(source))
    for _ in drawn:
        channel.send(b"message", max_padding)
    padding = [
        decrypt_message(p, KEY_OF_ONE, counter).rand_padding for counter, p in enumerate(channel.outgoing)
    ]
    assert {len(p) for p in padding} == set(range(max_padding + 1))
    assert all(random.startswith(p, 1) for p, random in zip(padding, drawn))


def test_rekey_is_padded_too():
    channel = SecureChannel(ChannelKeys(KEY_OF_ONE, KEY_OF_OTHER), PEER, 0.0, lambda size: b"\xc8" * size)
    channel.start_rekey(now=0.0)
    assert decrypt_message(channel.outgoing[0], KEY_OF_ONE, 0).rand_padding == b"\xc8" * 200
