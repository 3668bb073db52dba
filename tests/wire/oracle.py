"""An independent Cap'n Proto implementation: pycapnp, which wraps the original in C++."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import capnp

from offset_common.wire import fields, messages

capnp.remove_import_hook()
schema = capnp.load(str(Path(__file__).with_name("schema.capnp")))
Refused = capnp.KjException


def _allocator(slack: Sequence[int]) -> Callable[[int], bytearray]:
    left = list(slack)

    def allocate(words: int) -> bytearray:
        return bytearray(8 * (words + (left.pop(0) if left else 0)))

    return allocate


def build(message: fields.Message, slack: Optional[Sequence[int]] = None) -> Any:
    """Build a message with the oracle.

    Args:
        slack: None for one segment. Otherwise each new segment has room for its first object and the next
            number of words in this list (then 0), so that far pointers are needed.
    """
    struct = getattr(schema, type(message).__name__)
    if slack is None:
        builder = struct.new_message()
    else:
        builder = struct.new_message(num_first_segment_words=1, allocate_seg_callable=_allocator(slack))
    _FILL[type(message)](builder, message)
    return builder


def packed(message: fields.Message, slack: Optional[Sequence[int]] = None) -> bytes:
    """Write a message with the oracle."""
    written: bytes = build(message, slack).to_bytes_packed()
    return written


def read(kind: type[fields.Message], data: bytes) -> fields.Message:
    """Read a packed message of a kind with the oracle; return it as our class."""
    reader = getattr(schema, kind.__name__).from_bytes_packed(data)
    message: fields.Message = _READ[kind](reader)
    return message


def set_words(inner: Any, value: bytes) -> None:
    """Fill the fields x0, x1, ... of the words of a fixed byte string, each big endian."""
    for start in range(0, len(value), 8):
        setattr(inner, f"x{start // 8}", int.from_bytes(value[start : start + 8], "big"))


def _get_words(fixed: Any) -> bytes:
    return b"".join(getattr(fixed.inner, name).to_bytes(8, "big") for name in fixed.inner.schema.fieldnames)


def _set_fixed(builder: Any, field: str, value: bytes) -> None:
    set_words(builder.init(field).init("inner"), value)


def _fill_all_fixed(builder: Any, message: fields.Message) -> None:
    for name, value in vars(message).items():
        _set_fixed(builder, re.sub("_(.)", lambda found: found[1].upper(), name), value)


def _read_all_fixed(reader: Any) -> list[bytes]:
    return [_get_words(getattr(reader, name)) for name in reader.schema.fieldnames]


def _fill_exchange_rand_nonce(builder: Any, message: messages.ExchangeRandNonce) -> None:
    _set_fixed(builder, "randNonce", message.rand_nonce)
    _set_fixed(builder, "srcPublicKey", message.src_public_key)
    if message.opt_dest_public_key is None:
        builder.optDestPublicKey.empty = None
    else:
        _set_fixed(builder.optDestPublicKey, "publicKey", message.opt_dest_public_key)


def _read_exchange_rand_nonce(reader: Any) -> messages.ExchangeRandNonce:
    union = reader.optDestPublicKey
    return messages.ExchangeRandNonce(
        _get_words(reader.randNonce),
        _get_words(reader.srcPublicKey),
        None if union.which() == "empty" else _get_words(union.publicKey),
    )


def _fill_channel_message(builder: Any, message: messages.ChannelMessage) -> None:
    builder.randPadding = message.rand_padding
    content = builder.init("content")
    if isinstance(message.content, messages.Rekey):
        _fill_all_fixed(content.init("rekey"), message.content)
    else:
        content.user = message.content


def _read_channel_message(reader: Any) -> messages.ChannelMessage:
    if reader.content.which() == "user":
        return messages.ChannelMessage(reader.randPadding, reader.content.user)
    return messages.ChannelMessage(reader.randPadding, messages.Rekey(*_read_all_fixed(reader.content.rekey)))


def _fill_ka_message(builder: Any, message: messages.KaMessage) -> None:
    if message.message is None:
        builder.keepAlive = None
    else:
        builder.message = message.message


def _read_ka_message(reader: Any) -> messages.KaMessage:
    return messages.KaMessage(None if reader.which() == "keepAlive" else reader.message)


def _fill_init_connection(builder: Any, message: messages.InitConnection) -> None:
    if message.public_key is None:
        builder.listen = None
    else:
        _set_fixed(builder, message.role.name.lower(), message.public_key)


def _read_init_connection(reader: Any) -> messages.InitConnection:
    which = str(reader.which())
    role = messages.InitRole[which.upper()]
    if role is messages.InitRole.LISTEN:
        return messages.InitConnection(role)
    return messages.InitConnection(role, _get_words(getattr(reader, which)))


_FILL: dict[type[fields.Message], Callable[[Any, Any], None]] = {
    messages.ExchangeRandNonce: _fill_exchange_rand_nonce,
    messages.ExchangeDh: _fill_all_fixed,
    messages.ChannelMessage: _fill_channel_message,
    messages.KaMessage: _fill_ka_message,
    messages.InitConnection: _fill_init_connection,
    messages.RejectConnection: _fill_all_fixed,
    messages.IncomingConnection: _fill_all_fixed,
}
_READ: dict[type[fields.Message], Callable[[Any], fields.Message]] = {
    messages.ExchangeRandNonce: _read_exchange_rand_nonce,
    messages.ExchangeDh: lambda reader: messages.ExchangeDh(*_read_all_fixed(reader)),
    messages.ChannelMessage: _read_channel_message,
    messages.KaMessage: _read_ka_message,
    messages.InitConnection: _read_init_connection,
    messages.RejectConnection: lambda reader: messages.RejectConnection(*_read_all_fixed(reader)),
    messages.IncomingConnection: lambda reader: messages.IncomingConnection(*_read_all_fixed(reader)),
}
