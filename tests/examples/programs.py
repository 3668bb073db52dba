"""What the tests of examples/forward.py share: its processes, the TCP servers and clients at their ends."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

import pytest

from offset_common.address import Address
from offset_common.identity import Identity, encode_key, save_identity
from offset_common.tickets import RelayTicket
from tests.end_to_end.relay_process import RelayProcess

ROOT = Path(__file__).resolve().parents[2]
FORWARD = str(ROOT / "examples" / "forward.py")
LOCALHOST = "127.0.0.1"
PATIENCE = 15.0  # seconds after which something that must come is missing


class Program:
    """One forward.py that runs; what it writes is collected in a thread."""

    def __init__(self, *arguments: str, directory: Path = Path("/")) -> None:
        self.process = subprocess.Popen(
            [sys.executable, FORWARD, *arguments], cwd=directory, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def wait_for(self, pattern: str, count: int = 1) -> str:
        """Return the last of the first `count` lines that match."""

        def found() -> list[str]:
            return [line for line in self.lines if re.search(pattern, line)]

        with self._changed:
            came = self._changed.wait_for(lambda: len(found()) >= count, PATIENCE)
            assert came, f"{pattern!r} did not come {count} times: {self.lines[-20:]}"
            return found()[count - 1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the status with which it ends."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self._reader.join(PATIENCE)
            assert self.process.stderr is not None
            self.process.stderr.close()


class Setting:
    """A relay, two keys, and the programs that a test starts between them."""

    def __init__(self, directory: Path, relay: RelayProcess) -> None:
        self.directory = directory
        self.ticket = RelayTicket(relay.public_key, Address(LOCALHOST, relay.port))
        self.ticket.save(directory / "relay.relay")
        self.home, self.laptop = self.identity("home"), self.identity("laptop")
        self.programs: list[Program] = []

    def identity(self, name: str) -> Identity:
        identity = Identity.generate()
        save_identity(identity, self.directory / f"{name}.ident")
        return identity

    def start(self, command: str, name: str, *options: str) -> Program:
        files = ("--ticket", str(self.directory / "relay.relay"))
        identity = ("--idfile", str(self.directory / f"{name}.ident"))
        self.programs.append(Program(command, *files, *identity, *options))
        return self.programs[-1]

    def serve(self, port: int, *options: str, allow: Optional[Identity] = None) -> Program:
        """Let the laptop, or another, reach a port; return when the relay has been told."""
        allowed = encode_key((allow or self.laptop).public_key)
        program = self.start("serve", "home", "--to", f"{LOCALHOST}:{port}", "--allow", allowed, *options)
        program.wait_for("^forward ready: ")
        return program

    def dial(self, *options: str, name: str = "laptop") -> tuple[Program, int]:
        """Start the other side; return it and the port at which it listens."""
        peer = encode_key(self.home.public_key)
        program = self.start("dial", name, "--peer", peer, "--port", "0", *options)
        ready = re.match(r"forward ready: listening on 127\.0\.0\.1:(\d+), ", program.wait_for("ready"))
        assert ready is not None
        return program, int(ready[1])

    def both(self, port: int) -> int:
        """Start both sides; return the port that leads to `port`."""
        self.serve(port)
        return self.dial()[1]

    def end(self) -> None:
        """Stop all in order, and check that nothing went wrong in their lives."""
        for program in self.programs:
            if program.process.returncode is None:
                program.stop()
        for program in self.programs:
            assert program.process.returncode in (0, -signal.SIGKILL), program.lines
            assert not [line for line in program.lines if "Traceback" in line], "\n".join(program.lines)


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """A TCP server with a thread for each connection; `answer` has it, and it is closed afterwards."""

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
    while data := sock.recv(65536):
        sock.sendall(data)


def reach(port: int) -> socket.socket:
    return socket.create_connection((LOCALHOST, port), PATIENCE)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send bytes to an echo, and return as many."""
    sock.sendall(data)
    return read_exactly(sock, len(data))


def read_exactly(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        more = sock.recv(size - len(received))
        assert more, f"the end came after {len(received)} of {size} bytes"
        received += more
    return bytes(received)


def wait_for_reset(sock: socket.socket) -> None:
    """Read until the connection is reset; its end in order is a failure."""
    with pytest.raises(ConnectionResetError):
        while sock.recv(65536):
            pass
        pytest.fail("the connection ended in order")
