"""A queue of messages with a size limit in bytes."""

from __future__ import annotations

from collections import deque

MESSAGE_COST = 64  # bytes counted for each message in addition to its content


class MessageQueue:
    """A FIFO queue that reports when it is full. Not thread-safe.

    Args:
        size: bytes; the queue is full at this size. `put` accepts a message even then.
    """

    def __init__(self, size: int) -> None:
        self._messages: deque[bytes] = deque()
        self._size = size
        self._used = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    @property
    def full(self) -> bool:
        """Whether the producer should pause."""
        return self._used >= self._size

    @property
    def half_empty(self) -> bool:
        """Whether a paused producer may resume."""
        return self._used <= self._size // 2

    def put(self, message: bytes) -> None:
        """Append a message."""
        self._messages.append(message)
        self._used += len(message) + MESSAGE_COST

    def take(self) -> bytes:
        """Remove and return the first message."""
        message = self._messages.popleft()
        self._used -= len(message) + MESSAGE_COST
        return message

    def clear(self) -> None:
        """Remove all messages."""
        self._messages.clear()
        self._used = 0
