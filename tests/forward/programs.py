"""The processes of stforward, and the TCP servers and clients at their ends."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from offset_common.forward.code import Code
from offset_common.forward.config_directory import IDENTITY, ConfigDirectory
from offset_common.forward.peers import Peers, Rule
from offset_common.identity import Identity, encode_key, save_identity
from tests.support.process import PATIENCE, ROOT, LoggedProcess
from tests.support.relay_process import LOCALHOST, RelayProcess

STFORWARD = str(ROOT / "stforward.py")


class Machine:
    """A user on some machine: a directory for the configuration, with an identity.

    Args:
        path: where the directory is.
    """

    def __init__(self, path: Path) -> None:
        self.config = path
        self.directory = ConfigDirectory(path / "offset")
        self.directory.create()
        self.identity = Identity.generate()
        save_identity(self.identity, self.directory.path / IDENTITY)
        self.key = encode_key(self.identity.public_key)

    def command(self, *arguments: str) -> list[str]:
        """Return a command line of stforward on this machine."""
        return ["env", f"XDG_CONFIG_HOME={self.config}", sys.executable, STFORWARD, *arguments]

    def run(self, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run stforward to its end."""
        return subprocess.run(
            self.command(*arguments), input=input, capture_output=True, timeout=2 * PATIENCE, check=False
        )


class Setting:
    """A relay, two machines that use it, and the programs that a test starts on them."""

    def __init__(self, directory: Path, relay: RelayProcess) -> None:
        self.path = directory
        self.ticket = relay.ticket
        self.ticket_file = directory / "relay.relay"
        self.ticket.save(self.ticket_file)
        self.home, self.laptop = Machine(directory / "home"), Machine(directory / "laptop")
        self.code = Code(self.ticket, self.home.identity.public_key)
        self.programs: list[LoggedProcess] = []

    def let_in(self, machine: Machine, name: str = "laptop") -> None:
        """Allow the key of a machine at home."""
        Peers(self.home.directory).add(Rule.ALLOW, machine.identity.public_key, name)

    def start(self, machine: Machine, *arguments: str) -> LoggedProcess:
        """Start stforward on a machine."""
        self.programs.append(LoggedProcess(machine.command(*arguments)))
        return self.programs[-1]

    def share_command(self, *arguments: str) -> list[str]:
        """Return the command line that shares something at home."""
        return self.home.command("share", "--relay", str(self.ticket_file), *arguments)

    def start_share(self, *arguments: str) -> LoggedProcess:
        """Share something at home."""
        self.programs.append(LoggedProcess(self.share_command(*arguments)))
        return self.programs[-1]

    def share(self, *arguments: str) -> LoggedProcess:
        """Share something at home, with the laptop; return once it listens at the relay."""
        self.let_in(self.laptop)
        program = self.start_share(*arguments)
        program.wait_for_line("^waiting for connections$")
        return program

    def to(self, *arguments: str) -> LoggedProcess:
        """Connect from the laptop."""
        return self.start(self.laptop, "to", str(self.code), *arguments)

    def reach(self, *arguments: str) -> tuple[LoggedProcess, int]:
        """Connect from the laptop; return the program once it is connected, and its port."""
        program = self.to(*(arguments or ("0",)))
        program.wait_for_line("^connected to ")
        return program, port_of(program)

    def both(self, port: int) -> int:
        """Start both sides; return the port that leads to `port`."""
        self.share(str(port))
        return self.reach()[1]

    def close(self) -> None:
        """End every program."""
        for program in self.programs:
            program.kill()


def port_of(program: LoggedProcess) -> int:
    """Return the port on which the connecting side listens."""
    found = re.search(r"port (\d+)$", program.wait_for_line("^listening on "))
    assert found is not None
    return int(found[1])


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """Yield the port of a TCP server that passes each connection to `answer` in a thread, then closes it."""
    with socket.create_server((LOCALHOST, 0), backlog=256) as listening, serving(listening, answer):
        yield listening.getsockname()[1]


@contextlib.contextmanager
def serving(listening: socket.socket, answer: Callable[[socket.socket], object]) -> Iterator[None]:
    """Pass each connection of a listening socket to `answer` in a thread, then close it."""

    def run(sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionError):
            sock.settimeout(PATIENCE)
            answer(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=run, args=(listening.accept()[0],), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    yield
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
    """Send bytes to an echo server; return as many bytes of its answer."""
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
    """Read until the connection is reset; fail if it ends without a reset."""
    with pytest.raises(ConnectionResetError):
        while sock.recv(65536):
            pass
        pytest.fail("the connection ended without a reset")
