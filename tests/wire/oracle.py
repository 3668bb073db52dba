"""An independent Cap'n Proto implementation: pycapnp, which wraps the original in C++."""

from __future__ import annotations

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


def _get_words(fixed: Any, size: int) -> bytes:
    return b"".join(getattr(fixed.inner, f"x{i}").to_bytes(8, "big") for i in range(size // 8))


def _set_fixed(builder: Any, field: str, value: bytes) -> None:
    set_words(builder.init(field).init("inner"), value)


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
        _get_words(reader.randNonce, 16),
        _get_words(reader.srcPublicKey, 32),
        None if union.which() == "empty" else _get_words(union.publicKey, 32),
    )


def _fill_exchange_dh(builder: Any, message: messages.ExchangeDh) -> None:
    _set_fixed(builder, "dhPublicKey", message.dh_public_key)
    _set_fixed(builder, "randNonce", message.rand_nonce)
    _set_fixed(builder, "keySalt", message.key_salt)
    _set_fixed(builder, "signature", message.signature)


def _read_exchange_dh(reader: Any) -> messages.ExchangeDh:
    return messages.ExchangeDh(
        _get_words(reader.dhPublicKey, 32),
        _get_words(reader.randNonce, 16),
        _get_words(reader.keySalt, 32),
        _get_words(reader.signature, 64),
    )


def _fill_channel_message(builder: Any, message: messages.ChannelMessage) -> None:
    builder.randPadding = message.rand_padding
    content = builder.init("content")
    if isinstance(message.content, messages.Rekey):
        rekey = content.init("rekey")
        _set_fixed(rekey, "dhPublicKey", message.content.dh_public_key)
        _set_fixed(rekey, "keySalt", message.content.key_salt)
    else:
        content.user = message.content


def _read_channel_message(reader: Any) -> messages.ChannelMessage:
    if reader.content.which() == "user":
        return messages.ChannelMessage(reader.randPadding, reader.content.user)
    rekey = reader.content.rekey
    content = messages.Rekey(_get_words(rekey.dhPublicKey, 32), _get_words(rekey.keySalt, 32))
    return messages.ChannelMessage(reader.randPadding, content)


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
    return messages.InitConnection(role, _get_words(getattr(reader, which), 32))


def _fill_public_key(builder: Any, message: Any) -> None:
    _set_fixed(builder, "publicKey", message.public_key)


_FILL: dict[type[fields.Message], Callable[[Any, Any], None]] = {
    messages.ExchangeRandNonce: _fill_exchange_rand_nonce,
    messages.ExchangeDh: _fill_exchange_dh,
    messages.ChannelMessage: _fill_channel_message,
    messages.KaMessage: _fill_ka_message,
    messages.InitConnection: _fill_init_connection,
    messages.RejectConnection: _fill_public_key,
    messages.IncomingConnection: _fill_public_key,
}
_READ: dict[type[fields.Message], Callable[[Any], fields.Message]] = {
    messages.ExchangeRandNonce: _read_exchange_rand_nonce,
    messages.ExchangeDh: _read_exchange_dh,
    messages.ChannelMessage: _read_channel_message,
    messages.KaMessage: _read_ka_message,
    messages.InitConnection: _read_init_connection,
    messages.RejectConnection: lambda reader: messages.RejectConnection(_get_words(reader.publicKey, 32)),
    messages.IncomingConnection: lambda reader: messages.IncomingConnection(_get_words(reader.publicKey, 32)),
}
