"""Name the protocol of a peer that does not speak Offset, by its first bytes, for logs and error messages.

Scanners, browsers and misconfigured load balancers reach every public port. Their first bytes never look like
those of a version frame, which are a small eight-byte length (section 2 of docs/protocol.md).
"""

from __future__ import annotations

import re

from offset_common.constants import FRAME_LENGTH_SIZE, MAX_FRAME_SIZE

_PROTOCOLS = [
    (rb"(GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|CONNECT|TRACE|PRI) |PROPFIND", "HTTP request"),
    (rb"HTTP/", "HTTP response"),
    (rb"[\x14-\x17]\x03[\x00-\x04]", "TLS"),
    (rb"SSH-", "SSH"),
    (rb"PROXY |\r\n\r\n\x00", "PROXY protocol header"),
    (rb"\x05[\x01-\x10]", "SOCKS"),
    (rb"\x04[\x01\x02].{5}", "SOCKS"),
    (rb"\x03\x00\x00.{5}", "Remote Desktop (RDP)"),
    (rb"\x00.{3}[\xfe\xff]SMB", "Windows file sharing (SMB)"),
    (rb"\x00\x00..(\x04\xd2\x16[\x2e-\x30]|\x00\x03\x00\x00)", "PostgreSQL"),
    (rb"\x10.\x00[\x04\x06]MQ", "MQTT"),
    (rb"\*[0-9]+\r\n", "Redis"),
    (rb"\xff[\xfb-\xfe]", "Telnet"),
    (rb"\x13BitTorr", "BitTorrent"),
    (rb"[\t -~]*\r?\n|[\t\r -~]+$", "plain text"),
]
_TABLE = [(re.compile(pattern, re.DOTALL), name) for pattern, name in _PROTOCOLS]

# Messages of fewer than eight bytes whose senders then wait for an answer: SOCKS 5, alerts of TLS, and lines
# of text.
_WHOLE_SHORT_MESSAGE = re.compile(
    rb"\x05\x01.|\x05\x02..|\x05\x03...|\x15\x03[\x00-\x04]\x00\x02..|[\t -~]*\r?\n", re.DOTALL
)


def name_protocol(first: bytes) -> str:
    """Describe a peer's protocol, as the end of a sentence.

    Args:
        first: the first eight bytes that it sent, or fewer.
    """
    for pattern, name in _TABLE:
        if pattern.match(first):
            return name
    length = int.from_bytes(first, "big")
    if len(first) == FRAME_LENGTH_SIZE and length <= MAX_FRAME_SIZE:
        return f"its first frame has {length} bytes"
    return f"unknown protocol, first bytes {first.hex()}"


def is_other_protocol(first: bytes) -> bool:
    """Return whether fewer than eight bytes are certainly not the start of Offset's first frame."""
    return _WHOLE_SHORT_MESSAGE.match(first) is not None
