"""The processes of examples/forward.py, and the TCP servers and clients at their ends."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Optional

import pytest

from offset_common.identity import Identity, encode_key, save_identity
from tests.support.process import ROOT, LoggedProcess
from tests.support.relay_process import LOCALHOST, RelayProcess

FORWARD = str(ROOT / "examples" / "forward.py")
PATIENCE = 15.0  # seconds after which something that must come is missing


class Setting:
    """A relay, two keys, and the programs that a test starts between them."""

    def __init__(self, directory: Path, relay: RelayProcess) -> None:
        self.directory = directory
        self.ticket = relay.ticket
        self.ticket.save(directory / "relay.relay")
        self.home, self.laptop = self.identity("home"), self.identity("laptop")
        self.programs: list[LoggedProcess] = []

    def identity(self, name: str) -> Identity:
        """Write and return a new identity."""
        identity = Identity.generate()
        save_identity(identity, self.directory / f"{name}.ident")
        return identity

    def run(self, *arguments: str, directory: Path = Path("/")) -> LoggedProcess:
        """Start forward.py."""
        self.programs.append(LoggedProcess([sys.executable, FORWARD, *arguments], directory))
        return self.programs[-1]

    def start(self, command: str, name: str, *options: str) -> LoggedProcess:
        """Start one side with an identity of this setting."""
        ticket, identity = self.directory / "relay.relay", self.directory / f"{name}.ident"
        return self.run(command, "--ticket", str(ticket), "--idfile", str(identity), *options)

    def start_serve(self, port: int, *options: str, allow: Optional[Identity] = None) -> LoggedProcess:
        """Let the laptop, or another key, reach a port."""
        allowed = encode_key((allow or self.laptop).public_key)
        return self.start("serve", "home", "--to", f"{LOCALHOST}:{port}", "--allow", allowed, *options)

    def serve(self, port: int, *options: str, allow: Optional[Identity] = None) -> LoggedProcess:
        """Let the laptop, or another key, reach a port; return once it is ready."""
        program = self.start_serve(port, *options, allow=allow)
        program.wait_for_line("^forward ready: ")
        return program

    def dial(self, *options: str, name: str = "laptop") -> tuple[LoggedProcess, int]:
        """Start the other side; return it and the port on which it listens."""
        peer = encode_key(self.home.public_key)
        program = self.start("dial", name, "--peer", peer, "--port", "0", *options)
        return program, port_of(program.wait_for_line("ready"))

    def both(self, port: int) -> int:
        """Start both sides; return the port that leads to `port`."""
        self.serve(port)
        return self.dial()[1]

    def close(self) -> None:
        """End every program."""
        for program in self.programs:
            program.kill()


def port_of(ready: str) -> int:
    """Return the port in the ready line of the dialing side."""
    found = re.search(r"127\.0\.0\.1:(\d+)", ready)
    assert found is not None
    return int(found[1])


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """Yield the port of a TCP server that lets `answer` have each connection, in a thread, and closes it."""

    def run(sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionError):
            sock.settimeout(PATIENCE)
            answer(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=run, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server((LOCALHOST, 0), backlog=128) as listening:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join(PATIENCE)


def echo(sock: socket.socket) -> None:
    """Send back everything."""
    while data := sock.recv(65536):
        sock.sendall(data)


def reach(port: int) -> socket.socket:
    """Connect to a port."""
    return socket.create_connection((LOCALHOST, port), PATIENCE)


def read_all(sock: socket.socket) -> bytes:
    """Read until the end of the stream."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send bytes to an echo server; return as many."""
    sock.sendall(data)
    return read_exactly(sock, len(data))


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read `size` bytes."""
    received = bytearray()
    while len(received) < size:
        more = sock.recv(size - len(received))
        assert more, f"the stream ended after {len(received)} of {size} bytes"
        received += more
    return bytes(received)


def wait_for_reset(sock: socket.socket) -> None:
    """Read until the connection is reset; fail if it ends in order."""
    with pytest.raises(ConnectionResetError):
        while sock.recv(65536):
            pass
        pytest.fail("the connection ended in order")
