"""Inputs that are lists of steps, in an encoding in which any bytes are valid.

A step is one byte for its kind, two bytes of little-endian size, and the content, which may be truncated.
"""

from __future__ import annotations

from collections.abc import Iterator

_HEAD_SIZE = 3
MAX_STEPS = 64  # more steps take longer and find nothing new


def read_steps(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the content of each step."""
    at = 0
    for _ in range(MAX_STEPS):
        if at >= len(data):
            return
        end = at + _HEAD_SIZE + int.from_bytes(data[at + 1 : at + _HEAD_SIZE], "little")
        yield data[at], data[at + _HEAD_SIZE : end]
        at = end


def write_steps(*steps: tuple[int, bytes]) -> bytes:
    """Encode steps, whose content is under 64 KiB."""
    return b"".join(bytes((kind,)) + len(content).to_bytes(2, "little") + content for kind, content in steps)
