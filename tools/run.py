"""Makes a relay's identity and ticket where they are missing, says where they are, and runs the relay.

This is `make run`. From the environment: ADDRESS is where nodes reach the relay, as HOST:PORT, and LADDR
where it listens, as IP:PORT. Both may be empty. Two commands do the same by hand: see README.md.
"""

from __future__ import annotations

import os
import socket
import sys
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from offset_common.address import Address, parse_address  # noqa: E402
from offset_common.command_line import run  # noqa: E402
from offset_common.errors import UsageError  # noqa: E402
from offset_common.identity import Identity, load_identity, save_identity  # noqa: E402
from offset_common.tickets import RelayTicket  # noqa: E402

DEFAULT_PORT = 4567
IDENTITY = Path("relay/relay.ident")
TICKET = Path("relay/relay.relay")

# Addresses for documentation (RFC 5737, RFC 3849): nothing is sent to them, they only stand for "outside".
OUTSIDE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def main() -> int:
    """Prepare, then become the relay."""
    text = os.environ.get("ADDRESS", "")
    given = parse_address(text) if text else None
    IDENTITY.parent.mkdir(exist_ok=True)
    identity = have_identity()
    ticket = have_ticket(identity, given)
    listen = os.environ.get("LADDR", "") or listening_address(ticket.address)
    print("\n".join(["", *what_to_do(ticket.address), "", *what_to_try()]), flush=True)
    arguments = [sys.executable, str(ROOT / "strelay.py"), "--idfile", str(IDENTITY), "--laddr", listen]
    print("\nstarting: " + " ".join([shown_python(), "strelay.py", *arguments[2:]]), flush=True)
    os.execv(sys.executable, arguments)


def have_identity() -> Identity:
    """Return the relay's identity, made now if it is missing.

    Raises:
        FileError: it cannot be read or made.
    """
    if not IDENTITY.exists():
        save_identity(Identity.generate(), IDENTITY)
        print(f"made the identity {IDENTITY}: keep it, and keep it secret; who has it is the relay")
    return load_identity(IDENTITY)


def have_ticket(identity: Identity, given: Optional[Address]) -> RelayTicket:
    """Return the relay's ticket, made now if it is missing.

    Args:
        identity: the relay's.
        given: the address that the person gave, or None.

    Raises:
        FileError: it cannot be read or made.
        UsageError: there is a ticket for another address or identity.
    """
    if not TICKET.exists():
        ticket = RelayTicket(identity.public_key, given or address_of_this_machine())
        ticket.save(TICKET)
        print(f"made the ticket {TICKET}, for {ticket.address}")
        return ticket
    ticket = RelayTicket.load(TICKET)
    if ticket.public_key != identity.public_key:
        raise UsageError(f"{TICKET} is of another identity than {IDENTITY}; remove it to get a new one")
    if given is not None and given != ticket.address:
        raise UsageError(f"{TICKET} is for {ticket.address}, not {given}; remove it to get a new one")
    return ticket


def address_of_this_machine() -> Address:
    """Return the address that this machine has towards the outside, or else its own loopback."""
    for family, outside in OUTSIDE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((outside, DEFAULT_PORT))  # chooses a route, sends nothing
                return Address(sock.getsockname()[0], DEFAULT_PORT)
        except OSError:
            continue
    return Address("127.0.0.1", DEFAULT_PORT)


def listening_address(address: Address) -> str:
    """Return where to listen for nodes that come to `address`: every address of this machine."""
    return f"[::]:{address.port}" if ":" in address.host else f"0.0.0.0:{address.port}"


def what_to_do(address: Address) -> list[str]:
    """Return lines that tell the person what comes next."""
    lines = [
        f"The ticket: {TICKET}",
        f"Give it to everybody who is to use this relay at {address}. It holds no secret.",
    ]
    if is_private(address.host):
        lines += [
            "",
            f"Nodes reach {address.host} from this machine and perhaps its own network, not from elsewhere.",
            f"For the others, let the router pass TCP port {address.port} on to this machine,",
            "then make a ticket for the router's public address, or a name that stands for it:",
            f"    rm {TICKET}",
            f"    make run ADDRESS=relay.example.com:{address.port}",
        ]
    return lines


def what_to_try() -> list[str]:
    """Return lines with what a relay's owner may do now, as command lines."""
    python = shown_python()
    need = "" if find_spec("segno") else f" ({python} needs the package segno: apt-get install python3-segno)"
    return [
        "To see that it works, in another terminal:",
        f"    {python} stmgr.py relay-check {TICKET}",
        f"To hand the ticket to a phone, as a QR code{need}:",
        f"    {python} stmgr.py show {TICKET} --qr",
        "To see what a node and a relay say to each other:",
        f"    {python} stmgr.py relay-check --trace {TICKET}",
        "To end the relay: Ctrl-C.",
    ]


def shown_python() -> str:
    """Return this Python as a person in the project's directory may call it."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def is_private(host: str) -> bool:
    """Say whether `host` is an address that the internet does not reach."""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return False  # a name: whose, its owner knows


if __name__ == "__main__":
    sys.exit(run("make run", main))
