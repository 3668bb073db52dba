"""What visitors send without end, or until so much was sent."""

from __future__ import annotations

import time
from typing import Callable

from tests.attack.crowd import Buffer, Visitor

Supply = Callable[[], Buffer]


def zeros(size: int) -> Supply:
    """Return a supply of so many bytes that are nothing."""
    left = size

    def supply() -> bytes:
        nonlocal left
        part = bytes(min(left, 1 << 18))
        left -= len(part)
        return part

    return supply


def messages(visitor: Visitor, size: int, count: int) -> Supply:
    """Return a supply of so many messages of so many bytes, each of which begins with its number."""
    number = 0

    def supply() -> bytes:
        nonlocal number
        if number == count or visitor.connection is None:
            return b""
        visitor.connection.send(number.to_bytes(8, "big") + bytes(size - 8), time.monotonic())
        number += 1
        return visitor.connection.data_to_send()

    return supply


def push(visitor: Visitor, size: int, count: int) -> None:
    """Let the visitor send messages as fast as they are taken."""
    visitor.supply = messages(visitor, size, count)
    visitor.flush()


def numbers(received: list[bytes]) -> list[int]:
    """Return the numbers with which messages begin."""
    return [int.from_bytes(message[:8], "big") for message in received]
