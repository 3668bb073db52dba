"""The common parts of all messages of the protocol: their base class, and fixed byte strings.

Source: section 3.1 of docs/protocol.md.
"""

from __future__ import annotations

from offset_common.errors import LocalProtocolError
from offset_common.wire.capnp import StructReader, fixed_words, segment_table, struct_pointer
from offset_common.wire.packing import WORD_SIZE, pack, pack_literal


class Message:
    """The base class of messages: they are equal if their fields are, and their repr hides the content."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={_shown(value)}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


def _shown(value: object) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, (bytes, bytearray, memoryview)) else str(value)


def check_size(name: str, value: bytes, size: int) -> None:
    """Raise LocalProtocolError unless a value has the given size."""
    if len(value) != size:
        raise LocalProtocolError(f"{name} has {len(value)} bytes, not {size}")


def packed_head(words: int, *head: bytes) -> bytes:
    """Pack the segment table of a message of `words` words, and its first words.

    The two are packed separately: section 3.3.
    """
    return pack(segment_table(words)) + pack(b"".join(head))


# A fixed byte string is a struct with one pointer, to the struct of words that follows it.
_FIXED_HEADS = {size: pack(struct_pointer(0, size // WORD_SIZE, 0)) for size in (16, 32, 64)}


def packed_fixed(value: bytes) -> bytes:
    """Pack a fixed byte string of 16, 32 or 64 bytes, with the pointer to its words."""
    return _FIXED_HEADS[len(value)] + pack_literal(fixed_words(value))


def read_fixed(reader: StructReader, index: int, size: int) -> bytes:
    """Read the fixed byte string of `size` bytes that pointer `index` leads to; raises DecodeError."""
    return reader.struct(index).struct(0).fixed_bytes(size)
