"""The messages of the protocol, one class each: section 3.1 of docs/protocol.md.

`encode` returns the packed bytes for a frame, or for the layer below. `decode` reads every form of the
message that a peer may choose, and raises DecodeError for anything else.

The constant parts of a message, mostly pointers, are packed once, when this module is loaded. The variable
parts are byte strings that look random; they are packed as literal runs.
"""

from __future__ import annotations

import enum
import functools
from typing import ClassVar, Optional, TypeVar, Union

from offset_common import constants
from offset_common.errors import DecodeError, LocalProtocolError
from offset_common.wire.capnp import (
    StructReader,
    data_pointer,
    discriminant_word,
    read_message,
    segment_table,
    struct_pointer,
)
from offset_common.wire.fields import Message, check_size, packed_fixed, packed_head, read_fixed
from offset_common.wire.frames import Buffer
from offset_common.wire.packing import (
    WORD_SIZE,
    literal_runs,
    max_unpacked_size,
    pack,
    pack_literal,
    pack_sparse,
    pack_word,
)

_P = TypeVar("_P", bound="_PublicKeyMessage")


class ExchangeRandNonce(Message):
    """The first message of a handshake: the sender's identity, and a nonce for the peer to sign.

    Args:
        rand_nonce: 16 bytes.
        src_public_key: 32 bytes, the sender's key.
        opt_dest_public_key: 32 bytes, the key that the sender expects the receiver to have.

    Source: section 4.
    """

    # Words: root pointer, one data word, three pointers, then each byte string after its inner pointer.
    _HEAD = packed_head(
        13,
        struct_pointer(0, 1, 3),
        discriminant_word(0),
        struct_pointer(2, 0, 1),
        struct_pointer(4, 0, 1),
        bytes(WORD_SIZE),
    )
    _HEAD_WITH_DEST = packed_head(
        18,
        struct_pointer(0, 1, 3),
        discriminant_word(1),
        struct_pointer(2, 0, 1),
        struct_pointer(4, 0, 1),
        struct_pointer(8, 0, 1),
    )

    def __init__(
        self, rand_nonce: bytes, src_public_key: bytes, opt_dest_public_key: Optional[bytes] = None
    ) -> None:
        check_size("rand_nonce", rand_nonce, constants.RAND_NONCE_SIZE)
        check_size("src_public_key", src_public_key, constants.PUBLIC_KEY_SIZE)
        if opt_dest_public_key is not None:
            check_size("opt_dest_public_key", opt_dest_public_key, constants.PUBLIC_KEY_SIZE)
        self.rand_nonce = rand_nonce
        self.src_public_key = src_public_key
        self.opt_dest_public_key = opt_dest_public_key

    def encode(self) -> bytes:
        """Return the payload of a frame."""
        always = packed_fixed(self.rand_nonce) + packed_fixed(self.src_public_key)
        if self.opt_dest_public_key is None:
            return self._HEAD + always
        return self._HEAD_WITH_DEST + always + packed_fixed(self.opt_dest_public_key)

    @classmethod
    def decode(cls, data: Buffer) -> ExchangeRandNonce:
        """Read the payload of a frame; raises DecodeError."""
        root = read_message(data, constants.MAX_HANDSHAKE_FRAME_SIZE)
        choice = root.discriminant()
        if choice > 1:
            raise DecodeError(f"an optDestPublicKey of unknown kind {choice}")
        return cls(
            read_fixed(root, 0, constants.RAND_NONCE_SIZE),
            read_fixed(root, 1, constants.PUBLIC_KEY_SIZE),
            read_fixed(root, 2, constants.PUBLIC_KEY_SIZE) if choice == 1 else None,
        )


class ExchangeDh(Message):
    """The second message of a handshake: a Diffie-Hellman key, and proof of the sender's identity.

    Args:
        dh_public_key: 32 bytes.
        rand_nonce: 16 bytes, the nonce that the peer sent.
        key_salt: 32 bytes.
        signature: 64 bytes.

    Source: section 4.
    """

    _HEAD = packed_head(
        27,
        struct_pointer(0, 0, 4),
        struct_pointer(3, 0, 1),
        struct_pointer(7, 0, 1),
        struct_pointer(9, 0, 1),
        struct_pointer(13, 0, 1),
    )

    def __init__(self, dh_public_key: bytes, rand_nonce: bytes, key_salt: bytes, signature: bytes) -> None:
        check_size("dh_public_key", dh_public_key, constants.DH_PUBLIC_KEY_SIZE)
        check_size("rand_nonce", rand_nonce, constants.RAND_NONCE_SIZE)
        check_size("key_salt", key_salt, constants.KEY_SALT_SIZE)
        check_size("signature", signature, constants.SIGNATURE_SIZE)
        self.dh_public_key = dh_public_key
        self.rand_nonce = rand_nonce
        self.key_salt = key_salt
        self.signature = signature

    def encode(self) -> bytes:
        """Return the payload of a frame."""
        return (
            self._HEAD
            + packed_fixed(self.dh_public_key)
            + packed_fixed(self.rand_nonce)
            + packed_fixed(self.key_salt)
            + packed_fixed(self.signature)
        )

    @classmethod
    def decode(cls, data: Buffer) -> ExchangeDh:
        """Read the payload of a frame; raises DecodeError."""
        root = read_message(data, constants.MAX_HANDSHAKE_FRAME_SIZE)
        return cls(
            read_fixed(root, 0, constants.DH_PUBLIC_KEY_SIZE),
            read_fixed(root, 1, constants.RAND_NONCE_SIZE),
            read_fixed(root, 2, constants.KEY_SALT_SIZE),
            read_fixed(root, 3, constants.SIGNATURE_SIZE),
        )


class Rekey(Message):
    """New key material for an established channel; travels inside a ChannelMessage.

    Args:
        dh_public_key: 32 bytes.
        key_salt: 32 bytes.

    Source: section 5.1.
    """

    def __init__(self, dh_public_key: bytes, key_salt: bytes) -> None:
        check_size("dh_public_key", dh_public_key, constants.DH_PUBLIC_KEY_SIZE)
        check_size("key_salt", key_salt, constants.KEY_SALT_SIZE)
        self.dh_public_key = dh_public_key
        self.key_salt = key_salt

    def packed_fields(self) -> bytes:
        """Pack both fields, without the pointers to them."""
        return packed_fixed(self.dh_public_key) + packed_fixed(self.key_salt)

    @classmethod
    def read(cls, reader: StructReader) -> Rekey:
        """Read a Rekey inside another message; raises DecodeError."""
        return cls(
            read_fixed(reader, 0, constants.DH_PUBLIC_KEY_SIZE),
            read_fixed(reader, 1, constants.KEY_SALT_SIZE),
        )


def max_payload_size(frame_size: int) -> int:
    """Return the maximum size of the `message` in a frame of `frame_size` bytes, decoded."""
    user_size = max_unpacked_size(frame_size, data_fields=2)  # of the whole ChannelMessage
    return min(constants.MAX_FRAME_SIZE, max_unpacked_size(user_size))


@functools.lru_cache(maxsize=1 + constants.MAX_PADDING_SENT)
def packed_start(padding_size: int) -> bytes:
    """Pack the root, ->randPadding and ->content of a ChannelMessage whose padding precedes its content."""
    words = -(-padding_size // WORD_SIZE)
    root = pack(struct_pointer(0, 0, 2))
    return root + pack_word(data_pointer(1, padding_size)) + pack_word(struct_pointer(words, 1, 1))


class ChannelMessage(Message):
    """The plaintext of a frame of an established channel.

    Args:
        rand_padding: at most 65,535 bytes, which are ignored.
        content: a Rekey, or the bytes of the layer above.

    Source: section 5.
    """

    _PACKED_USER = pack(discriminant_word(1))

    def __init__(self, rand_padding: bytes, content: Union[Rekey, bytes]) -> None:
        self.rand_padding = rand_padding
        self.content = content

    def encode(self) -> bytes:
        """Return the packed plaintext."""
        padding = self.rand_padding + bytes(-len(self.rand_padding) % WORD_SIZE)
        padding_words = len(padding) // WORD_SIZE
        if isinstance(self.content, Rekey):
            head = packed_head(
                17 + padding_words,
                struct_pointer(0, 0, 2),
                data_pointer(15, len(self.rand_padding)),
                struct_pointer(0, 1, 1),
                discriminant_word(0),
                struct_pointer(0, 0, 2),
                struct_pointer(1, 0, 1),
                struct_pointer(5, 0, 1),
            )
            return head + self.content.packed_fields() + pack_literal(padding)
        # The padding precedes the content, as released nodes write it; classify.py relies on that order.
        words = 5 + padding_words + -(-len(self.content) // WORD_SIZE)
        return b"".join(
            (
                pack_word(segment_table(words)),
                packed_start(len(self.rand_padding)),
                pack_literal(padding),
                self._PACKED_USER,
                pack_word(data_pointer(0, len(self.content))),
                *literal_runs(self.content),
            )
        )

    @classmethod
    def decode(cls, data: Buffer) -> ChannelMessage:
        """Read a packed plaintext; raises DecodeError."""
        root = read_message(data, data_fields=2)
        padding = root.data(0)
        content = root.struct(1)
        choice = content.discriminant()
        if choice == 0:
            return cls(padding, Rekey.read(content.struct(0)))
        if choice == 1:
            return cls(padding, content.data(0))
        raise DecodeError(f"a ChannelContent of unknown kind {choice}")


class KaMessage(Message):
    """A keepAlive, or bytes of the layer above.

    Args:
        message: the bytes, or None for a keepAlive.

    Source: section 6.
    """

    _PACKED_MESSAGE = pack(struct_pointer(0, 1, 1) + discriminant_word(1))
    _KEEP_ALIVE = packed_head(3, struct_pointer(0, 1, 1), discriminant_word(0), bytes(WORD_SIZE))

    def __init__(self, message: Optional[bytes]) -> None:
        self.message = message

    def encode(self, sparse: bool = False) -> bytes:
        """Return the user data of a ChannelMessage.

        Args:
            sparse: whether to compress zero bytes by packing.
        """
        if self.message is None:
            return self._KEEP_ALIVE
        words = 3 + -(-len(self.message) // WORD_SIZE)
        return b"".join(
            (
                pack_word(segment_table(words)),
                self._PACKED_MESSAGE,
                pack_word(data_pointer(0, len(self.message))),
                *((pack_sparse(self.message),) if sparse else literal_runs(self.message)),
            )
        )

    @classmethod
    def decode(cls, data: Buffer) -> KaMessage:
        """Read the user data of a ChannelMessage; raises DecodeError."""
        root = read_message(data)
        choice = root.discriminant()
        if choice == 0:
            return cls(None)
        if choice == 1:
            return cls(root.data(0))
        raise DecodeError(f"a KaMessage of unknown kind {choice}")


class InitRole(enum.Enum):
    """The role of a connection to the relay; the values are the union's discriminants."""

    LISTEN = 0
    ACCEPT = 1
    CONNECT = 2


class InitConnection(Message):
    """The first message of a connection to the relay: its role.

    Args:
        role: the connection's role.
        public_key: 32 bytes, the other node's key; None for LISTEN.

    Source: section 7.
    """

    _LISTEN = packed_head(3, struct_pointer(0, 1, 1), discriminant_word(0), bytes(WORD_SIZE))
    _HEADS: ClassVar[dict[InitRole, bytes]] = {
        role: packed_head(8, struct_pointer(0, 1, 1), discriminant_word(role.value), struct_pointer(0, 0, 1))
        for role in (InitRole.ACCEPT, InitRole.CONNECT)
    }

    def __init__(self, role: InitRole, public_key: Optional[bytes] = None) -> None:
        if (role is InitRole.LISTEN) is not (public_key is None):
            raise LocalProtocolError("a listen has no public key; accept and connect have one")
        if public_key is not None:
            check_size("public_key", public_key, constants.PUBLIC_KEY_SIZE)
        self.role = role
        self.public_key = public_key

    def encode(self) -> bytes:
        """Return the message of a KaMessage."""
        if self.public_key is None:
            return self._LISTEN
        return self._HEADS[self.role] + packed_fixed(self.public_key)

    @classmethod
    def decode(cls, data: Buffer) -> InitConnection:
        """Read the message of a KaMessage; raises DecodeError."""
        root = read_message(data, constants.MAX_RELAY_MESSAGE_SIZE)
        try:
            role = InitRole(root.discriminant())
        except ValueError:
            raise DecodeError(f"an InitConnection of unknown kind {root.discriminant()}") from None
        if role is InitRole.LISTEN:
            return cls(role)
        return cls(role, read_fixed(root, 0, constants.PUBLIC_KEY_SIZE))


class _PublicKeyMessage(Message):
    """A message with one public key."""

    _HEAD = packed_head(7, struct_pointer(0, 0, 1), struct_pointer(0, 0, 1))

    def __init__(self, public_key: bytes) -> None:
        check_size("public_key", public_key, constants.PUBLIC_KEY_SIZE)
        self.public_key = public_key

    def encode(self) -> bytes:
        """Return the message of a KaMessage."""
        return self._HEAD + packed_fixed(self.public_key)

    @classmethod
    def decode(cls: type[_P], data: Buffer) -> _P:
        """Read the message of a KaMessage; raises DecodeError."""
        root = read_message(data, constants.MAX_RELAY_MESSAGE_SIZE)
        return cls(read_fixed(root, 0, constants.PUBLIC_KEY_SIZE))


class RejectConnection(_PublicKeyMessage):
    """A listener rejects the pending connect of a node.

    Args:
        public_key: 32 bytes, that node's key.

    Source: section 7.
    """


class IncomingConnection(_PublicKeyMessage):
    """The relay announces to a listener that a node wants to connect.

    Args:
        public_key: 32 bytes, that node's key.

    Source: section 7.
    """
