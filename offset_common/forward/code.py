"""The code that tells one machine how to reach another: a relay, and the other machine's key.

    "of1" || base64url(port (2) || relay's key (32) || machine's key (32) || host || checksum (4))

The checksum is the beginning of the SHA-256 of everything before it, "of1" included. It detects a code that
was cut or mistyped. A code contains no secret: the sharing side still decides which keys may connect.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import NamedTuple

from offset_common.address import Address, parse_address
from offset_common.constants import PUBLIC_KEY_SIZE
from offset_common.errors import UsageError
from offset_common.forward.messages import MAX_NAME
from offset_common.tickets import RelayTicket

PREFIX = "of1"
MAX_LENGTH = 500  # characters
_PORT_SIZE = 2
_CHECKSUM_SIZE = 4
_FIXED_SIZE = _PORT_SIZE + 2 * PUBLIC_KEY_SIZE + _CHECKSUM_SIZE
_AGAIN = "copy it again, from the beginning to the end"


class Code(NamedTuple):
    """The way to a machine.

    Args:
        relay: the relay that it uses.
        public_key: 32 bytes, the machine's key.
    """

    relay: RelayTicket
    public_key: bytes

    def __str__(self) -> str:
        """Return the text to paste."""
        address = self.relay.address
        content = b"".join(
            (
                address.port.to_bytes(_PORT_SIZE, "big"),
                self.relay.public_key,
                self.public_key,
                address.host.encode(),
            )
        )
        text = base64.urlsafe_b64encode(content + _checksum(content))
        return PREFIX + text.rstrip(b"=").decode("ascii")


def looks_like_code(text: str) -> bool:
    """Return whether a string is meant to be a code, of this or another version, and not a name."""
    return re.match(r"of[0-9]", text) is not None and len(text) > MAX_NAME


def parse_code(text: str) -> Code:
    """Read a code.

    Raises:
        UsageError: the text is not a code, or is damaged.
    """
    if not text.startswith(PREFIX):
        raise UsageError(f"the code's version is not {PREFIX!r}; use a newer stforward")
    stray = re.search(r"[^A-Za-z0-9_-]", text)
    if stray:
        raise UsageError(f"character {stray.start() + 1} of the code is not allowed in a code; {_AGAIN}")
    encoded = text[len(PREFIX) :]
    if len(text) > MAX_LENGTH or len(encoded) % 4 == 1:
        raise UsageError(f"the code has the wrong length; {_AGAIN}")
    data = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    content, checksum = data[:-_CHECKSUM_SIZE], data[-_CHECKSUM_SIZE:]
    if len(data) <= _FIXED_SIZE or checksum != _checksum(content):
        raise UsageError(f"the code is incomplete or mistyped; {_AGAIN}")
    keys = content[_PORT_SIZE:]
    host = keys[2 * PUBLIC_KEY_SIZE :].decode("utf-8", "replace")
    address = parse_address(str(Address(host, int.from_bytes(content[:_PORT_SIZE], "big"))))
    relay = RelayTicket(keys[:PUBLIC_KEY_SIZE], address)
    return Code(relay, keys[PUBLIC_KEY_SIZE : 2 * PUBLIC_KEY_SIZE])


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + content).digest()[:_CHECKSUM_SIZE]
