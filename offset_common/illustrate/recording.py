"""The recording of a run: the frames of three connections, and every random byte of the two nodes.

Everything else, keys and plaintexts, is computed from these (secrets.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from offset_common.errors import FileError
from offset_common.files import AnyPath, read_file

CONNECTOR, LISTENER, ACCEPTOR = "connector", "listener", "acceptor"
CONNECTIONS = (CONNECTOR, LISTENER, ACCEPTOR)
MAX_RECORDING_SIZE = 1 << 20  # bytes of a file


@dataclass(frozen=True)
class Exchange:
    """The random bytes of one side of a handshake, in hexadecimal, used for one run only.

    Args:
        rand_nonce: 16 bytes.
        dh_private_key: 32 bytes.
        key_salt: 32 bytes.
    """

    rand_nonce: str
    dh_private_key: str
    key_salt: str


@dataclass(frozen=True)
class RecordedFrame:
    """One frame.

    Args:
        connection: CONNECTOR, LISTENER or ACCEPTOR.
        direction: SENT or RECEIVED, from the node's side.
        payload: in hexadecimal, without the length.
    """

    connection: str
    direction: str
    payload: str


@dataclass(frozen=True)
class Recording:
    """One run.

    Args:
        date: the day, as in 2026-01-31.
        relay: the relay's public key, in hexadecimal.
        connecting_node: the seed of the node that connects, in hexadecimal.
        listening_node: the seed of the node that listens and accepts.
        exchanges: the nodes' side of each connection's handshake with the relay, by connection.
        end_to_end: the two sides of the handshake inside the tunnel: CONNECTOR's and ACCEPTOR's.
        frames: in the order in which the nodes sent and received them.
    """

    date: str
    relay: str
    connecting_node: str
    listening_node: str
    exchanges: dict[str, Exchange]
    end_to_end: dict[str, Exchange]
    frames: list[RecordedFrame]

    def seed_of(self, connection: str) -> bytes:
        """Return the seed of the node that opened a connection."""
        return bytes.fromhex(self.connecting_node if connection == CONNECTOR else self.listening_node)


def encode_recording(recording: Recording) -> str:
    """Return a recording as JSON."""
    return json.dumps(asdict(recording), indent=1) + "\n"


def load_recording(path: AnyPath) -> Recording:
    """Read a recording from a JSON file.

    Raises:
        FileError: the file cannot be read, or is not a recording.
    """
    try:
        return _decode(json.loads(read_file(path, MAX_RECORDING_SIZE)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileError(
            path, "not a recording of a run; make one with read_the_protocol.py --record"
        ) from error


def _decode(values: dict[str, Any]) -> Recording:
    exchanges, end_to_end = (
        {name: Exchange(**exchange) for name, exchange in values[each].items()}
        for each in ("exchanges", "end_to_end")
    )
    frames = [RecordedFrame(**frame) for frame in values["frames"]]
    return Recording(**{**values, "exchanges": exchanges, "end_to_end": end_to_end, "frames": frames})
