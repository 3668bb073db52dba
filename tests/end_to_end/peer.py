"""A node for tests: another implementation of the protocol than the package's own.

Frames, handshake, sealing and rekey are written here on `cryptography`; the messages go through
pycapnp where it is installed, and through the package's codec elsewhere. With `original=True` a node
lays its messages out as released nodes do: up to 65,535 bytes of padding, a first segment of 1024 words.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA512_256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from offset_common.wire.messages import (
    ChannelMessage,
    ExchangeDh,
    ExchangeRandNonce,
    IncomingConnection,
    InitConnection,
    InitRole,
    KaMessage,
    RejectConnection,
    Rekey,
)

oracle: Any
try:
    from tests.wire import oracle
except ImportError:
    oracle = None

TIMEOUT = 20.0  # seconds that anything here may take before the test fails
VERSION = bytes(4)

Address = tuple[str, int]


class Ended(Exception):
    """The relay ended the connection, in order or by a reset."""


def encode(message: Any) -> bytes:
    """Write a message, its objects in segments as the original's builder puts them."""
    return bytes(oracle.packed(message)) if oracle else message.encode()


def decode(kind: Any, data: bytes) -> Any:
    """Read a message."""
    return oracle.read(kind, data) if oracle else kind.decode(data)


def raw(public_key: Any) -> bytes:
    """Return the 32 bytes of a public key."""
    return bytes(public_key.public_bytes(Encoding.Raw, PublicFormat.Raw))


class _Direction:
    """The key of one direction and the number of its next message."""

    def __init__(self, key: bytes) -> None:
        self.aead = ChaCha20Poly1305(key)
        self.count = 0

    def seal(self, plaintext: bytes) -> bytes:
        nonce = self.count.to_bytes(12, "little")
        self.count += 1
        return nonce + self.aead.encrypt(nonce, plaintext, None)

    def open(self, payload: bytes) -> bytes:
        nonce = self.count.to_bytes(12, "little")
        assert payload[:12] == nonce, "the relay's nonce is not the next one"
        plaintext = self.aead.decrypt(nonce, payload[12:], None)
        self.count += 1
        return plaintext


class _Exchange:
    """A fresh Diffie-Hellman key and salt."""

    def __init__(self) -> None:
        self.private_key = X25519PrivateKey.generate()
        self.public_key = raw(self.private_key.public_key())
        self.salt = os.urandom(32)

    def derive(self, peer_key: bytes, peer_salt: bytes) -> tuple[_Direction, _Direction]:
        shared = self.private_key.exchange(X25519PublicKey.from_public_bytes(peer_key))
        keys = (
            HKDF(SHA512_256(), length=32, salt=salt, info=b"").derive(shared)
            for salt in (self.salt, peer_salt)
        )
        return _Direction(next(keys)), _Direction(next(keys))


class Peer:
    """One connection to a relay, on a blocking socket.

    Args:
        address: of the relay.
        private_key: the node's identity.
        original: whether to lay messages out as released nodes do.
    """

    def __init__(self, address: Address, private_key: Ed25519PrivateKey, original: bool = False) -> None:
        self.sock = socket.create_connection(address, TIMEOUT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.original = original
        self.keepalives = 0  # received
        self.rekeys = 0  # received
        self.relay_key = b""
        self._private_key = private_key
        self._held: Optional[bytearray] = None
        self._received = bytearray()
        self._announced: deque[bytes] = deque()
        self._pending: Optional[_Exchange] = None
        self._sending = self._receiving = _Direction(bytes(32))
        self._old_receiving: Optional[_Direction] = None
        self._send_lock = threading.Lock()

    # Bytes and frames.

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        if self._held is not None:
            self._held += data
            return
        try:
            self.sock.sendall(data)
        except OSError as error:
            if isinstance(error, socket.timeout):
                raise
            raise Ended from error

    def hold(self) -> None:
        """Keep what is sent until `release`."""
        self._held = bytearray()

    def take_held(self) -> bytes:
        """Return what was held; what is sent from now on is sent."""
        held, self._held = self._held, None
        return bytes(held or b"")

    def release(self) -> None:
        """Send in one piece what was held."""
        self.send_bytes(self.take_held())

    def send_frame(self, payload: bytes) -> None:
        """Send one frame."""
        self.send_bytes(struct.pack(">Q", len(payload)) + payload)

    def receive_frame(self) -> bytes:
        """Wait for one frame."""
        (length,) = struct.unpack(">Q", self._receive_exactly(8))
        return self._receive_exactly(length)

    def _receive_exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            try:
                data = self.sock.recv(1 << 18)
            except ConnectionError as error:
                raise Ended from error
            if not data:
                raise Ended
            self._received += data
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    @property
    def holds_bytes(self) -> bool:
        """Whether bytes were read that no frame is made of yet."""
        return bool(self._received)

    def close(self) -> None:
        """End the connection from this side."""
        self.sock.close()

    def reset(self) -> None:
        """End the connection with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def half_close(self) -> None:
        """Say that nothing more is sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def bytes_until_end(self) -> bytes:
        """Return the bytes that still come, once the relay has ended the connection."""
        with contextlib.suppress(Ended):
            self._receive_exactly(1 << 40)
        return bytes(self._received)

    def wait_for_end(self) -> list[bytes]:
        """Return the messages that still come, once the relay has ended the connection."""
        messages = []
        while True:
            try:
                messages.append(self.receive())
            except Ended:
                return messages

    # The handshake, section 4.

    def handshake(
        self,
        expected: Optional[bytes] = None,
        spoil: Callable[[ExchangeDh], ExchangeDh] = lambda proof: proof,
    ) -> Peer:
        """Prove who we are, and let the relay prove who it is.

        Args:
            expected: the key that the relay must have, or None.
            spoil: what to make of our proof before it is sent.
        """
        self.exchange_versions()
        nonce = self.send_rand_nonce(expected)
        theirs = decode(ExchangeRandNonce, self.receive_frame())
        if expected is not None:
            assert theirs.src_public_key == expected
        assert theirs.opt_dest_public_key is None, "a relay leaves the expected key empty"
        exchange = _Exchange()
        signed = exchange.public_key + theirs.rand_nonce + exchange.salt
        signature = self._private_key.sign(signed)
        proof = ExchangeDh(exchange.public_key, theirs.rand_nonce, exchange.salt, signature)
        self.send_frame(encode(spoil(proof)))
        answer = decode(ExchangeDh, self.receive_frame())
        assert answer.rand_nonce == nonce
        Ed25519PublicKey.from_public_bytes(theirs.src_public_key).verify(
            answer.signature, answer.dh_public_key + answer.rand_nonce + answer.key_salt
        )
        self.relay_key = theirs.src_public_key
        self._sending, self._receiving = exchange.derive(answer.dh_public_key, answer.key_salt)
        return self

    def exchange_versions(self) -> None:
        """Send our version and check the relay's."""
        self.send_frame(VERSION)
        assert self.receive_frame() == VERSION

    def send_rand_nonce(self, expected: Optional[bytes] = None) -> bytes:
        """Send the first handshake message; return its nonce."""
        nonce = os.urandom(16)
        self.send_frame(encode(ExchangeRandNonce(nonce, raw(self._private_key.public_key()), expected)))
        return nonce

    # Sealed messages, section 5.

    def sealed(self, content: Any, padding: Optional[int] = None) -> bytes:
        """Return the next sealed payload."""
        if padding is None:
            padding = random.randrange(65536 if self.original else 256)
        return self._sending.encrypt(encode(ChannelMessage(os.urandom(padding), content)))

    def send(self, message: bytes) -> None:
        """Send one message."""
        with self._send_lock:
            self.send_frame(self.sealed(encode(KaMessage(message))))

    def send_keepalive(self, padding: Optional[int] = None) -> None:
        """Send a keepAlive."""
        with self._send_lock:
            self.send_frame(self.sealed(encode(KaMessage(None)), padding))

    def start_rekey(self) -> None:
        """Ask for new keys; the answer is taken by `receive`."""
        with self._send_lock:
            self._pending = _Exchange()
            self.send_frame(self.sealed(Rekey(self._pending.public_key, self._pending.salt)))

    def receive(self) -> bytes:
        """Wait for one message; keepalives and rekeys are taken on the way.

        Raises:
            Ended: the relay ended the connection.
        """
        while True:
            message = self.receive_any()
            if message is not None:
                return message

    def receive_any(self) -> Optional[bytes]:
        """Wait for one frame: return its message, or None where it was a keepAlive or a Rekey."""
        content = decode(ChannelMessage, self._open(self.receive_frame())).content
        if isinstance(content, Rekey):
            self._take_rekey(content)
            return None
        message: Optional[bytes] = decode(KaMessage, content).message
        if message is None:
            self.keepalives += 1
        return message

    def _open(self, payload: bytes) -> bytes:
        if self._old_receiving is None:
            return self._receiving.open(payload)
        # "try it first; the first message that decrypts under the new one drops the old" (5.1)
        try:
            return self._old_receiving.open(payload)
        except Exception:
            plaintext = self._receiving.open(payload)
            self._old_receiving = None
            return plaintext

    def _take_rekey(self, rekey: Rekey) -> None:
        self.rekeys += 1
        exchange = self._pending
        with self._send_lock:
            if exchange is None:
                exchange = _Exchange()
                self.send_frame(self.sealed(Rekey(exchange.public_key, exchange.salt)))
            self._pending = None
            self._old_receiving = self._receiving
            self._sending, self._receiving = exchange.derive(rekey.dh_public_key, rekey.key_salt)

    # The relay's layer, section 7.

    def init(self, role: InitRole, key: Optional[bytes] = None) -> Peer:
        """Send the InitConnection."""
        self.send(encode(InitConnection(role, key)))
        return self

    def incoming(self) -> bytes:
        """Return the key of the next connect that is announced to this listener."""
        return self._announced.popleft() if self._announced else self.next_incoming()

    def next_incoming(self) -> bytes:
        """Return the key of the next IncomingConnection that was not kept by `keep_announced`."""
        return bytes(decode(IncomingConnection, self.receive()).public_key)

    def reject(self, key: bytes) -> None:
        """Reject a waiting connect."""
        self.send(encode(RejectConnection(key)))

    def keep_announced(self, key: bytes) -> None:
        """Let `incoming` give `key` again."""
        self._announced.append(key)


class Place(NamedTuple):
    """Where a relay is, and who it is."""

    address: Address
    public_key: bytes


class Node:
    """An identity that uses a relay; closes what it opened at the end of a `with`.

    Args:
        relay: where and who the relay is.
        original: whether to lay messages out as released nodes do.
    """

    def __init__(self, relay: Place, original: bool = False) -> None:
        self.relay = relay
        self.original = original
        self.private_key = Ed25519PrivateKey.generate()
        self.public_key = raw(self.private_key.public_key())
        self.peers: list[Peer] = []

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.close()

    def dial(self) -> Peer:
        """Open a TCP connection and say nothing."""
        peer = Peer(self.relay.address, self.private_key, self.original)
        self.peers.append(peer)
        return peer

    def open(self) -> Peer:
        """Open a connection with a finished handshake."""
        return self.dial().handshake(self.relay.public_key)

    def connect(self, key: bytes) -> Peer:
        """Ask for the node with that key."""
        return self.open().init(InitRole.CONNECT, key)

    def accept(self, key: bytes) -> Peer:
        """Accept a waiting connect from that key."""
        return self.open().init(InitRole.ACCEPT, key)

    def listen(self) -> Peer:
        """Listen, and return once the relay announces connects to this listener."""
        listener = self.open().init(InitRole.LISTEN)
        deadline = time.monotonic() + TIMEOUT
        while not self._is_announced(listener):
            assert time.monotonic() < deadline, "the listener never came up"
        return listener

    def _is_announced(self, listener: Peer) -> bool:
        """Connect to ourselves: nothing else tells that a listen has taken effect."""
        with Node(self.relay) as prober:
            probe = prober.connect(self.public_key)
            while True:
                wait = 0.0 if listener.holds_bytes else TIMEOUT
                ready, _, _ = select.select([probe.sock, listener.sock], [], [], wait)
                assert ready or not wait, "the relay neither announces a connect nor closes it"
                if listener.sock in ready or listener.holds_bytes:
                    key = listener.next_incoming()
                    if key == prober.public_key:
                        listener.reject(key)
                        assert probe.wait_for_end() == []
                        return True
                    listener.keep_announced(key)
                elif probe.wait_for_end() == []:
                    return False


def tunnel(caller: Node, callee: Node, listener: Peer) -> tuple[Peer, Peer]:
    """Join two nodes, and see that they are; return the caller's end and the callee's."""
    near = caller.connect(callee.public_key)
    assert listener.incoming() == caller.public_key
    far = callee.accept(caller.public_key)
    far.send(b"accepted")
    assert near.receive() == b"accepted"
    return near, far
