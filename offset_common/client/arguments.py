"""Check the arguments of the public functions, so that a mistake is reported where it is made."""

from __future__ import annotations

from offset_common.constants import PUBLIC_KEY_SIZE
from offset_common.identity import Identity
from offset_common.tickets import RelayTicket


def check_ticket(ticket: object) -> None:
    """Raise a TypeError unless the argument is a RelayTicket."""
    if not isinstance(ticket, RelayTicket):
        raise TypeError(f"ticket must be a RelayTicket, not {_type(ticket)}; use RelayTicket.load(path)")


def check_identity(identity: object) -> None:
    """Raise a TypeError unless the argument is an Identity."""
    if not isinstance(identity, Identity):
        raise TypeError(f"identity must be an Identity, not {_type(identity)}; use load_identity(path)")


def check_public_key(name: str, key: object) -> None:
    """Raise a TypeError unless the argument is a bytes object, and a ValueError unless it is a public key.

    Args:
        name: the name of the argument.
        key: its value.
    """
    if not isinstance(key, bytes):
        raise TypeError(f"{name} must be bytes, not {_type(key)}; use decode_key(text, {PUBLIC_KEY_SIZE})")
    if len(key) != PUBLIC_KEY_SIZE:
        raise ValueError(f"{name} must have {PUBLIC_KEY_SIZE} bytes, not {len(key)}")


def check_seconds(seconds: object) -> None:
    """Raise a TypeError unless the argument is a number."""
    if not isinstance(seconds, (int, float)):
        raise TypeError(f"a timeout must be a number of seconds, not {_type(seconds)}")


def _type(value: object) -> str:
    return type(value).__name__
