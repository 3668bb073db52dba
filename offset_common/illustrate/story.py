"""The story of a recorded run: every frame with its layers, and the secrets of every handshake.

Source: sections 2 to 7 of docs/protocol.md.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Optional

from offset_common.constants import FRAME_LENGTH_SIZE
from offset_common.errors import OperatorError, PeerError
from offset_common.illustrate.layers import (
    Layer,
    ciphertext_start,
    data_layer,
    frame_layer,
    message_layer,
    put_in_field,
    put_in_payload,
    sealed_layer,
    version_layer,
)
from offset_common.illustrate.recording import CONNECTIONS, LISTENER, RecordedFrame, Recording
from offset_common.illustrate.secrets import Secrets, compute_secrets, decrypt
from offset_common.tools.frame_assembler import OPENING, RECEIVED, SENT
from offset_common.tools.meanings import meaning_of
from offset_common.wire.messages import (
    ChannelMessage,
    ExchangeDh,
    ExchangeRandNonce,
    InitConnection,
    KaMessage,
)

END_TO_END = "end-to-end "
"""The first words in the name of a frame whose message the relay only forwards."""
END_TO_END_OPENING = OPENING[1:]
"""The first messages of each node in the tunnel."""


@dataclass
class FrameStory:
    """One frame.

    Args:
        number: its number, from 1, in the order of the run.
        connection: CONNECTOR, LISTENER or ACCEPTOR.
        direction: SENT or RECEIVED, from the node's side.
        name: the name of its innermost message.
        text: its purpose in a sentence.
        layer: its outermost layer.
        tunnel: the tunnel's message in it, if it has one.
        partner: the number of the frame with the same tunnel message on the other connection; 0 if none.
    """

    number: int
    connection: str
    direction: str
    name: str
    text: str
    layer: Layer
    tunnel: Optional[bytes] = None
    partner: int = 0


@dataclass(frozen=True)
class Story:
    """A run.

    Args:
        recording: the recording that it was computed from.
        frames: all frames.
        secrets: the nodes' side of each connection's handshake.
        end_to_end: both sides of the handshake in the tunnel, by connection.
    """

    recording: Recording
    frames: list[FrameStory]
    secrets: dict[str, Secrets]
    end_to_end: dict[str, Secrets]


def tell(recording: Recording) -> Story:
    """Compute all keys of a recording, decrypt its frames and name all their bytes.

    Raises:
        OperatorError: the recording is incomplete, or its frames don't match its keys.
    """
    try:
        return _Explainer(recording).story()
    except (PeerError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, PeerError) else "a part of it is missing"
        raise OperatorError(f"the run cannot be explained: {reason}; record another one") from error


class _Explainer:
    """Reads the frames twice: the keys come from messages that are inside other frames."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._position: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._tunnel_position: defaultdict[tuple[str, str], int] = defaultdict(int)
        payloads: defaultdict[tuple[str, str], list[bytes]] = defaultdict(list)
        for frame in recording.frames:
            payloads[frame.connection, frame.direction].append(bytes.fromhex(frame.payload))
        self._secrets = {
            name: compute_secrets(
                recording.seed_of(name),
                recording.exchanges[name],
                ExchangeRandNonce.decode(payloads[name, RECEIVED][1]),
                ExchangeDh.decode(payloads[name, RECEIVED][2]),
                ExchangeDh.decode(payloads[name, SENT][2]),
            )
            for name in CONNECTIONS
        }
        self._end_to_end = {name: self._end_to_end_secrets(name, payloads) for name in recording.end_to_end}

    def story(self) -> Story:
        """Return the story of all frames."""
        frames = [self._frame(number, frame) for number, frame in enumerate(self._recording.frames, 1)]
        for one in frames:
            for other in frames:
                if (
                    one.tunnel is not None
                    and one.tunnel == other.tunnel
                    and one.connection != other.connection
                ):
                    one.partner = other.number
        return Story(self._recording, frames, self._secrets, self._end_to_end)

    def _key(self, connection: str, direction: str) -> bytes:
        secrets = self._secrets[connection]
        return secrets.sending if direction == SENT else secrets.receiving

    def _end_to_end_secrets(self, name: str, payloads: dict[tuple[str, str], list[bytes]]) -> Secrets:
        tunnel: dict[str, list[bytes]] = {}
        for direction in (SENT, RECEIVED):
            key = self._key(name, direction)
            messages = [self._message(key, payload) for payload in payloads[name, direction][len(OPENING) :]]
            first = 1 if direction == SENT else 0  # the InitConnection comes before the tunnel
            tunnel[direction] = [message for message in messages if message is not None][first:]
        return compute_secrets(
            self._recording.seed_of(name),
            self._recording.end_to_end[name],
            ExchangeRandNonce.decode(tunnel[RECEIVED][0]),
            ExchangeDh.decode(tunnel[RECEIVED][1]),
            ExchangeDh.decode(tunnel[SENT][1]),
        )

    @staticmethod
    def _message(key: bytes, payload: bytes) -> Optional[bytes]:
        """Return the message in an encrypted payload, None for a keepAlive or a Rekey."""
        content = ChannelMessage.decode(decrypt(key, payload)).content
        return KaMessage.decode(content).message if isinstance(content, bytes) else None

    def _frame(self, number: int, frame: RecordedFrame) -> FrameStory:
        payload = bytes.fromhex(frame.payload)
        connection, direction = frame.connection, frame.direction
        position = self._position[connection, direction]
        self._position[connection, direction] += 1
        tunnel = None
        if position < len(OPENING):
            name = OPENING[position]
            layer = version_layer(payload) if name == "version" else frame_layer(payload)
            if name != "version":
                put_in_payload(layer, message_layer(name, payload), FRAME_LENGTH_SIZE)
        else:
            layer = frame_layer(payload, self._key(connection, direction))
            keepalive = _decrypt_layer(layer, layer.data[FRAME_LENGTH_SIZE:])
            name = "keepAlive" if keepalive else "Rekey"
            message = None if keepalive is None else KaMessage.decode(keepalive.data).message
            if keepalive is not None and message is not None:
                inner, name, is_tunnel = self._message_layer(connection, direction, position, message)
                put_in_field(keepalive, "message", inner)
                tunnel = message if is_tunnel else None
        text = _TUNNEL_TEXTS.get((name, direction)) or meaning_of(name, direction).sentence
        return FrameStory(number, connection, direction, name, text, layer, tunnel)

    def _message_layer(
        self, connection: str, direction: str, position: int, message: bytes
    ) -> tuple[Layer, str, bool]:
        """Return the layer of a KaMessage's message, its name, and whether it is a message of a tunnel."""
        if direction == SENT and position == len(OPENING):
            role = InitConnection.decode(message).role.name.lower()
            return message_layer("InitConnection", message), f"InitConnection {role}", False
        if connection == LISTENER:
            name = "RejectConnection" if direction == SENT else "IncomingConnection"
            return message_layer(name, message), name, False
        number = self._tunnel_position[connection, direction]
        self._tunnel_position[connection, direction] += 1
        if number < len(END_TO_END_OPENING):
            name = END_TO_END_OPENING[number]
            return message_layer(name, message), f"{END_TO_END}{name}", True
        secrets = self._end_to_end[connection]
        layer = sealed_layer(message, secrets.sending if direction == SENT else secrets.receiving)
        keepalive = _decrypt_layer(layer, message)
        data = None if keepalive is None else KaMessage.decode(keepalive.data).message
        if keepalive is not None and data is not None:
            put_in_field(keepalive, "message", data_layer(data))
        for each in layer.chain()[1:]:
            each.end_to_end = True
        return layer, f"{END_TO_END}message", True


def _decrypt_layer(layer: Layer, payload: bytes) -> Optional[Layer]:
    """Put the decrypted layers into an encrypted one; return the KaMessage, None for a Rekey."""
    plaintext = decrypt(layer.key, payload)
    inner = message_layer("ChannelMessage", plaintext)
    put_in_payload(layer, inner, ciphertext_start(layer))
    content = ChannelMessage.decode(plaintext).content
    if not isinstance(content, bytes):
        return None
    keepalive = message_layer("KaMessage", content)
    put_in_field(inner, "user", keepalive)
    return keepalive


_TUNNEL_TEXTS = {
    (f"{END_TO_END}ExchangeRandNonce", SENT): (
        "The first message of a second handshake, from node to node. The tunnel only carries it."
    ),
    (f"{END_TO_END}ExchangeRandNonce", RECEIVED): (
        "The other node's first message of the handshake between the nodes, as the relay forwarded it."
    ),
    (f"{END_TO_END}ExchangeDh", SENT): (
        "Half of a key exchange with the other node. The relay can read it, but it contains no secret."
    ),
    (f"{END_TO_END}ExchangeDh", RECEIVED): (
        "The other node's half of the key exchange. From now on, both nodes have keys that the relay lacks."
    ),
    (f"{END_TO_END}message", SENT): (
        "Encrypted twice: for the other node, then for the relay. The relay removes only the outer layer."
    ),
    (f"{END_TO_END}message", RECEIVED): (
        "The relay encrypted it again for this connection. The message inside is the same."
    ),
}
