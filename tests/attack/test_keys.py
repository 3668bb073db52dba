"""Public keys of small order, and the relay's own key."""

from __future__ import annotations

import base64
import json

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from offset_common.wire.messages import InitRole
from tests.attack.harness import Attack
from tests.channel.small_order import ED25519_KEYS
from tests.support.channel import KeyPair
from tests.support.relay_log import Reason

ATTEMPTS = 20  # handshakes with each key; about one signature in four can be forged


class ForgedKeyPair(KeyPair):
    """A small-order public key, for which signatures can be forged without a private key."""

    def __init__(self, public_key: bytes) -> None:
        super().__init__()
        self.public_key = public_key

    def sign(self, data: bytes) -> bytes:
        """Return a signature that verifies, if one of small order does."""
        verifier = Ed25519PublicKey.from_public_bytes(self.public_key)
        for point in ED25519_KEYS:
            try:
                verifier.verify(point + bytes(32), data)
            except InvalidSignature:
                continue
            return point + bytes(32)
        return bytes(64)


def test_small_order_keys_are_rejected(attack: Attack) -> None:
    swarm, ports = attack.swarm(), set()
    for key in ED25519_KEYS:
        peers = swarm.dial(ATTEMPTS, [ForgedKeyPair(key)])
        for peer in peers:
            peer.on_proven = lambda peer: peer.init(InitRole.LISTEN)
            peer.start_handshake()
        assert swarm.all_end(peers, 3.0), key.hex()
        ports |= {peer.port for peer in peers}
    attack.relay.wait_for_end(reason=Reason.HANDSHAKE_FAILED)
    reasons = {end.reason for end in attack.relay.ends() if end.port in ports}
    assert all(Reason.HANDSHAKE_FAILED in reason for reason in reasons), reasons
    attack.check()


def test_relays_own_key_is_rejected(attack: Attack) -> None:
    text = json.loads(attack.relay.identity.read_text())["privateKey"]
    swarm = attack.swarm()
    (peer,) = swarm.dial(1, [KeyPair(base64.urlsafe_b64decode(text + "="))])
    peer.on_proven = lambda peer: peer.init(InitRole.LISTEN)
    peer.start_handshake()
    assert swarm.all_end([peer], 3.0)
    attack.check()
