"""Inputs that are a list of steps, in a form that survives having its bytes changed.

A step is a byte that says what it does, two bytes of little-endian size, and as many bytes of content
as there are, up to that size.
"""

from __future__ import annotations

from collections.abc import Iterator

_HEAD_SIZE = 3
MAX_STEPS = 64  # more of them teach nothing and take long


def read_steps(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the number and the content of each step; any bytes are a script."""
    at = 0
    for _ in range(MAX_STEPS):
        if at >= len(data):
            return
        end = at + _HEAD_SIZE + int.from_bytes(data[at + 1 : at + _HEAD_SIZE], "little")
        yield data[at], data[at + _HEAD_SIZE : end]
        at = end


def write_steps(*steps: tuple[int, bytes]) -> bytes:
    """Make the script of such steps; content has less than 64 KiB."""
    return b"".join(bytes((kind,)) + len(content).to_bytes(2, "little") + content for kind, content in steps)
