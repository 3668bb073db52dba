"""The messages between hosts are decoded to what was encoded, and damaged ones are refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.errors import DecodeError
from offset_common.fleet.orders import MAX_SIZE, Answer, Order
from offset_common.relay.addresses import PeerAddress
from offset_common.relay.close_reason import CloseReason

KEY, OTHER = b"K" * 32, b"O" * 32
ADDRESS = PeerAddress("[2001:db8::1]:5000", "2001:db8::/64", "2001:db8::1")
ORDERS = [
    Order("connect", KEY, OTHER, ADDRESS, age=1.5),
    Order("accept", KEY, OTHER, ADDRESS),
    Order("taken", KEY, epoch=2**52),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.kind)
def test_order_survives_encoding(order: Order) -> None:
    message = order.encode()
    assert Order.decode(message) == order and len(message) < MAX_SIZE


@pytest.mark.parametrize("reason", [None, *CloseReason])
def test_answer_survives_encoding(reason: CloseReason) -> None:
    answer = Answer(reason, "a detail", not_here=reason is CloseReason.NO_LISTENER)
    assert Answer.decode(answer.encode()) == answer


def test_unknown_reason_of_a_later_version_ends_the_connection() -> None:
    message = json.dumps({"version": 1, "reason": "FULL_MOON", "detail": ""}).encode()
    assert Answer.decode(message).reason is CloseReason.PARTNER_ENDED


@pytest.mark.parametrize("decode", [Order.decode, Answer.decode])
@pytest.mark.parametrize("message", [b"", b"[]", b"{}", b'{"version": 2}', b"\xff", b"[" * 1000])
def test_other_message_is_refused(decode: object, message: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(message)  # type: ignore[operator]


def test_message_over_1_kib_is_refused() -> None:
    for message, decode in ((ORDERS[0].encode(), Order.decode), (Answer().encode(), Answer.decode)):
        decode(message.ljust(1024))
        with pytest.raises(DecodeError, match="too long"):
            decode(message.ljust(1025))


@pytest.mark.parametrize("fields", [{"reason": 5}, {"detail": 5}])
def test_answer_with_a_field_of_another_type_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(DecodeError, match="invalid answer"):
        Answer.decode(json.dumps({"version": 1, **fields}).encode())


OTHER_TYPES = (
    st.none()
    | st.booleans()
    | st.text()
    | st.lists(st.text() | st.integers())
    | st.dictionaries(st.text(), st.text())
)


FIELDS = [(order, name) for order in ORDERS for name in json.loads(order.encode()) if name != "version"]


@given(st.sampled_from(FIELDS), OTHER_TYPES)
def test_field_of_another_type_is_refused(field: tuple[Order, str], value: object) -> None:
    order, name = field
    fields = json.loads(order.encode())
    with pytest.raises(DecodeError):
        Order.decode(json.dumps({**fields, name: value}).encode())


@pytest.mark.parametrize(
    ("order", "field", "value"),
    [
        (0, "age", 10**400),
        (0, "age", "5"),
        (0, "age", True),
        (0, "address", ["a", "b", "no IP address"]),
        (0, "address", ["a", 5, "192.0.2.7"]),
        (0, "address", ["a" * 201, "b", "192.0.2.7"]),
        (2, "epoch", -1),
        (2, "epoch", 10**16),
    ],
)
def test_absurd_value_is_refused(order: int, field: str, value: object) -> None:
    fields = json.loads(ORDERS[order].encode())
    with pytest.raises(DecodeError):
        Order.decode(json.dumps({**fields, field: value}).encode())
