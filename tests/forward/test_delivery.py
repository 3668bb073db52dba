"""offset_common/forward/delivery.py: each message arrives once and in order, whatever happens to tunnels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.errors import DecodeError
from offset_common.forward.delivery import ACK_MESSAGES, Delivery
from offset_common.forward.messages import Kind, encode_stream, kind_of, read_ack

# For each tunnel: how many messages are sent, and how many of those in transit arrive before it breaks.
ROUNDS = st.lists(st.tuples(st.integers(0, 150), st.integers(0, 400)), min_size=1, max_size=8)


class Pair:
    """Two sides, and the messages in transit between them."""

    def __init__(self) -> None:
        self.sides = Delivery(), Delivery()
        self.under_way: tuple[list[bytes], list[bytes]] = ([], [])
        self.arrived: tuple[list[bytes], list[bytes]] = ([], [])

    def join(self) -> None:
        """Give both sides a new tunnel."""
        first, second = self.sides
        received = second.received
        first.attach(self.under_way[0].append, received)
        second.attach(self.under_way[1].append, first.received)

    def deliver(self, most: int) -> None:
        """Deliver some of the messages in transit, one in each direction in turn."""
        for _ in range(most):
            for side in (0, 1):
                if self.under_way[side]:
                    self._receive(1 - side, self.under_way[side].pop(0))

    def _receive(self, side: int, message: bytes) -> None:
        if kind_of(message) is Kind.ACK:
            self.sides[side].drop_confirmed(read_ack(message))
        else:
            self.sides[side].count_received(message)
            self.arrived[side].append(message)

    def break_tunnel(self) -> None:
        """Lose all messages in transit."""
        for side in (0, 1):
            self.under_way[side].clear()
            self.sides[side].detach()


@given(ROUNDS)
def test_each_message_arrives_once_and_in_order(rounds: list[tuple[int, int]]) -> None:
    pair = Pair()
    sent: tuple[list[bytes], list[bytes]] = ([], [])
    for count, most in rounds:
        pair.join()
        for _ in range(count):
            for side in (0, 1):
                message = encode_stream(Kind.DATA, side, str(len(sent[side])))
                sent[side].append(message)
                pair.sides[side].send(message)
        pair.deliver(most)
        pair.break_tunnel()
    pair.join()
    pair.deliver(10_000)
    assert pair.arrived == (sent[1], sent[0])


def test_confirmed_messages_are_not_kept() -> None:
    pair = Pair()
    pair.join()
    for _ in range(ACK_MESSAGES):
        pair.sides[0].send(b"\x12")
    assert pair.sides[0].kept_size > 0
    pair.deliver(10_000)
    assert pair.sides[0].kept_size == 0


@pytest.mark.parametrize("count", [-1, 0, 3, 2**64 - 1])
def test_impossible_confirmation_is_refused(count: int) -> None:
    delivery = Delivery()
    delivery.attach(lambda message: None, 0)
    delivery.send(b"first")
    delivery.send(b"second")
    delivery.drop_confirmed(1)
    with pytest.raises(DecodeError, match="never sent"):
        delivery.drop_confirmed(count)
