"""Every number of the protocol, with its unit and the section of docs/protocol.md it is from.

What an operator may choose (connection limits, budgets) is in relay/limits.py instead.
"""

from __future__ import annotations

# Frames: section 1.
FRAME_LENGTH_SIZE = 8  # bytes of the big-endian length before each payload
MAX_MESSAGE_SIZE = 2**20  # bytes of one payload of a tunnel: the intended largest frame
MAX_FRAME_SIZE = 2**20 + 2**17  # bytes: that payload, 64 KiB of padding, packing and encryption
MAX_HANDSHAKE_FRAME_SIZE = 2048  # bytes; the largest real one is under 200

# Version: section 2.
PROTOCOL_VERSION = 0
VERSION_SIZE = 4  # bytes

# Keys and other fixed byte strings, in bytes: sections 3.1 and 4.
PUBLIC_KEY_SIZE = 32
PRIVATE_KEY_SIZE = 32
DH_PUBLIC_KEY_SIZE = 32
RAND_NONCE_SIZE = 16
KEY_SALT_SIZE = 32
SIGNATURE_SIZE = 64
CHANNEL_KEY_SIZE = 32

# Encrypted messages: section 5.
NONCE_SIZE = 12  # bytes, a little-endian counter
TAG_SIZE = 16  # bytes
ENCRYPTION_OVERHEAD = NONCE_SIZE + TAG_SIZE
MAX_PADDING_SENT = 255  # bytes of random padding on a message that we send
MAX_KEEPALIVE_PADDING_SENT = 127  # bytes; an idle connection then costs under 1 MB a day

# Rekey: section 5.1.
REKEY_INTERVAL = 3600.0  # seconds
MAX_REKEYS_IN_WINDOW = 4  # rekeys a peer may start within REKEY_WINDOW
REKEY_WINDOW = 60.0  # seconds

# Keepalive: section 6.
KEEPALIVE_INTERVAL = 16.0  # seconds without sending
IDLE_TIMEOUT = 32.0  # seconds without receiving

# Relay: section 7.1.
MAX_RELAY_MESSAGE_SIZE = 16 * 1024  # bytes unpacked, of what nodes and relay say to each other: it takes 80
HANDSHAKE_TIMEOUT = 8.0  # seconds from the TCP connection to the ready channel
INIT_TIMEOUT = 4.0  # seconds from the ready channel to InitConnection
WAITING_CONNECT_TIMEOUT = 32.0  # seconds

# Tickets: section 7.1.
MAX_ADDRESS_SIZE = 256  # bytes
