"""Implements `make run`: creates the relay's identity and ticket if they are missing, then runs the relay.

It reads two environment variables, which may be empty: ADDRESS is where nodes reach the relay, as HOST:PORT;
LADDR is where it listens, as IP:PORT, and decides what a new ticket says if ADDRESS is empty. docs/install.md
has the commands that do the same by hand.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from offset_common.address import Address, parse_listen_address, parse_public_address  # noqa: E402
from offset_common.command_line import run  # noqa: E402
from offset_common.errors import FileError, UsageError  # noqa: E402
from offset_common.identity import Identity, load_identity, save_identity  # noqa: E402
from offset_common.tickets import RelayTicket  # noqa: E402

DEFAULT_PORT = 4567
IDENTITY = Path("relay/relay.ident")
TICKET = Path("relay/relay.relay")

# Addresses for documentation (RFC 5737, RFC 3849) that stand for the internet; nothing is sent to them.
OUTSIDE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
# Addresses to listen on that stand for all of this machine, with the kinds of connections that they take.
WILDCARDS = {"0.0.0.0": (socket.AF_INET,), "::": (socket.AF_INET, socket.AF_INET6)}


def main() -> int:
    """Create what is missing, then replace this process with the relay."""
    address, laddr = os.environ.get("ADDRESS", ""), os.environ.get("LADDR", "")
    given = parse_public_address(address) if address else None
    listen = parse_listen_address(laddr) if laddr else None
    if IDENTITY.parent.exists() and not IDENTITY.parent.is_dir():
        reason = (
            "this is a file; move it away: a directory with this name has the relay's identity and ticket"
        )
        raise FileError(IDENTITY.parent, reason)
    IDENTITY.parent.mkdir(exist_ok=True)
    identity = load_or_create_identity()
    ticket = load_or_create_ticket(identity, given, listen)
    listen = listen or every_address(ticket.address)
    print("\n".join(["", *next_steps(ticket.address, listen), "", *commands_to_try()]), flush=True)
    arguments = [sys.executable, str(ROOT / "strelay.py"), "--idfile", str(IDENTITY), "--laddr", str(listen)]
    print("\nstarting: " + " ".join([python_command(), "strelay.py", *arguments[2:]]), flush=True)
    os.execv(sys.executable, arguments)


def load_or_create_identity() -> Identity:
    """Return the relay's identity; create it if it is missing.

    Raises:
        FileError: the file cannot be read or created.
    """
    if not IDENTITY.exists():
        save_identity(Identity.generate(), IDENTITY)
        print(f"created the identity {IDENTITY}: keep it secret; anyone who has it can run this relay")
    return load_identity(IDENTITY)


def load_or_create_ticket(
    identity: Identity, given: Optional[Address], listen: Optional[Address]
) -> RelayTicket:
    """Return the relay's ticket; create it if it is missing.

    Args:
        identity: the relay's identity.
        given: ADDRESS, or None.
        listen: LADDR, or None.

    Raises:
        FileError: the file cannot be read or created.
        UsageError: the existing ticket is for another address or identity, or no ticket can have LADDR.
    """
    if not TICKET.exists():
        ticket = RelayTicket(identity.public_key, given or address_to_reach(listen))
        ticket.save(TICKET)
        print(f"created the ticket {TICKET} for {ticket.address}")
        return ticket
    ticket = RelayTicket.load(TICKET)
    if ticket.public_key != identity.public_key:
        raise UsageError(f"{TICKET} does not belong to {IDENTITY}; remove it to create a new one")
    if given is not None and given != ticket.address:
        raise UsageError(f"{TICKET} is for {ticket.address}, not {given}; remove it to create a new one")
    return ticket


def address_to_reach(listen: Optional[Address]) -> Address:
    """Return the address at which nodes reach a relay that listens on `listen`, or on every address if None.

    Raises:
        UsageError: nodes elsewhere cannot use the address, because of its port 0 or its IPv6 zone.
    """
    if listen is None:
        return own_address(DEFAULT_PORT, tuple(OUTSIDE))
    if listen.host not in WILDCARDS:
        return parse_public_address(str(listen))
    if listen.port == 0:
        raise UsageError(f"LADDR={listen} is any free port, but the ticket needs one; give a port from 1 on")
    return own_address(listen.port, WILDCARDS[listen.host])


def own_address(port: int, families: Sequence[socket.AddressFamily]) -> Address:
    """Return the address that this machine uses towards the internet, or else its loopback address."""
    for family in families:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((OUTSIDE[family], port))  # selects a route; UDP sends nothing here
                return Address(sock.getsockname()[0], port)
        except OSError:
            continue
    return Address("127.0.0.1", port)


def every_address(address: Address) -> Address:
    """Return what stands for every address of this machine of the kind of `address`, with its port."""
    return Address("::" if ":" in address.host else "0.0.0.0", address.port)


def next_steps(address: Address, listen: Address) -> list[str]:
    """Return the lines that explain who can reach the relay.

    Args:
        address: the one in the ticket.
        listen: the one that the relay listens on.
    """
    lines = [
        f"The ticket: {TICKET}",
        f"Give it to everyone who should use this relay at {address}. It contains no secret.",
    ]
    if is_loopback(address.host):
        return [*lines, "", *only_this_machine(address)]
    if is_loopback(listen.host) or address.port != listen.port:
        lines += [
            "",
            f"The relay listens on {listen}, but the ticket says {address}: nodes reach it only if a router",
            "or a program on this machine forwards their connections.",
        ]
    if is_private(address.host):
        lines += ["", *only_the_local_network(address, listen.port)]
    return lines


def only_this_machine(address: Address) -> list[str]:
    """Return the lines for a ticket with a loopback address."""
    return [
        f"Only programs on this machine can reach {address}.",
        "To let others use the relay, create a ticket for an address at which they reach this machine:",
        f"    rm {TICKET}",
        f"    make run ADDRESS=relay.example.com:{address.port}",
    ]


def only_the_local_network(address: Address, port: int) -> list[str]:
    """Return the lines for a ticket with a private address; the relay listens on `port`."""
    return [
        f"{address.host} is reachable only from this machine and perhaps its local network.",
        f"To reach it from the internet, forward TCP port {address.port} on the router to port {port} here,",
        "then create a ticket for the router's public address or DNS name:",
        f"    rm {TICKET}",
        f"    make run ADDRESS=relay.example.com:{address.port}",
    ]


def commands_to_try() -> list[str]:
    """Return lines with commands for the relay's operator."""
    python = python_command()
    need = "" if find_spec("segno") else f" ({python} needs segno: apt-get install python3-segno)"
    return [
        "To check the relay, in another terminal:",
        f"    {python} stmgr.py relay-check {TICKET}",
        f"To show the ticket as a QR code for a phone{need}:",
        f"    {python} stmgr.py show {TICKET} --qr",
        "To see every message between a node and the relay:",
        f"    {python} stmgr.py relay-check --trace {TICKET}",
        "To stop the relay: Ctrl-C.",
    ]


def python_command() -> str:
    """Return the command for this Python, relative to the current directory if possible."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def is_loopback(host: str) -> bool:
    """Return whether `host` is reachable only from this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def is_private(host: str) -> bool:
    """Return whether `host` is an IP address that is not reachable from the internet."""
    try:
        return not ip_address(host).is_global
    except ValueError:
        return False  # a DNS name


if __name__ == "__main__":
    sys.exit(run("make run", main))
