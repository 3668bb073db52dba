"""Every number of the protocol, with its unit and the section of docs/protocol.md that defines it.

Values that an operator may change (connection limits, budgets) are in relay/limits.py.
"""

from __future__ import annotations

# Frames: section 1.
FRAME_LENGTH_SIZE = 8  # bytes of the big-endian length before each payload
MAX_MESSAGE_SIZE = 2**20  # bytes of one tunnel payload: the intended largest frame
MAX_FRAME_SIZE = 2**20 + 2**17  # bytes: such a payload, plus 64 KiB of padding, packing and encryption
MAX_HANDSHAKE_FRAME_SIZE = 2048  # bytes; the largest valid one is under 200

# Version: section 2.
PROTOCOL_VERSION = 0
VERSION_SIZE = 4  # bytes

# Keys and other fixed-size byte strings, in bytes: sections 3.1 and 4.
PUBLIC_KEY_SIZE = 32
PRIVATE_KEY_SIZE = 32
PKCS8_PRIVATE_KEY_SIZE = 85  # the form of releases up to 0.1.10, which includes the public key: section 8
DH_PUBLIC_KEY_SIZE = 32
RAND_NONCE_SIZE = 16
KEY_SALT_SIZE = 32
SIGNATURE_SIZE = 64
CHANNEL_KEY_SIZE = 32

# Encrypted messages: section 5.
NONCE_SIZE = 12  # bytes, a little-endian counter
TAG_SIZE = 16  # bytes
ENCRYPTION_OVERHEAD = NONCE_SIZE + TAG_SIZE
MAX_PADDING_SENT = 255  # bytes of random padding on each message sent
MAX_KEEPALIVE_PADDING_SENT = 127  # bytes; keeps an idle connection under 1 MB a day

# Rekey: section 5.1.
REKEY_INTERVAL = 3600.0  # seconds
MAX_REKEYS_IN_WINDOW = 4  # rekeys that a peer may start within REKEY_WINDOW
REKEY_WINDOW = 60.0  # seconds

# Keepalive: section 6.
KEEPALIVE_INTERVAL = 16.0  # seconds without sending; released peers close after IDLE_TIMEOUT, too
IDLE_TIMEOUT = 32.0  # seconds without receiving

# Relay: section 7.1.
MAX_RELAY_MESSAGE_SIZE = 16 * 1024  # unpacked bytes of a message between node and relay; 80 are needed
HANDSHAKE_TIMEOUT = 8.0  # seconds from the TCP connection to the end of the handshake
INIT_TIMEOUT = 4.0  # seconds from the end of the handshake to InitConnection
PENDING_CONNECT_TIMEOUT = 32.0  # seconds until a pending connect must be accepted

# Tickets: section 7.1.
MAX_ADDRESS_SIZE = 256  # bytes
