"""Compare stforward with other ways to forward a TCP port on one machine.

Usage:
  bench.forwarding [options]
  bench.forwarding -h | --help

Each way leads to the same server in a process of its own. All of them run on this machine, so sender,
receiver and everything between them share its cores.

  --megabytes N   Size of the bulk copy [default: 200].
  --rounds N      Rounds; the best of each figure is printed [default: 3].
  --bore FILE     The program bore, if it is not in the PATH: `cargo install bore-cli` installs it.
  -h, --help      Show this help.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median
from typing import NamedTuple, Optional

from bench.delay import delayed
from bench.processes import Child, cpu_seconds, free_port, process_tree
from bench.relay_process import ROOT, RelayProcess
from offset_common import __version__
from offset_common.address import Address
from offset_common.channel.cipher import CipherState
from offset_common.command_line import parse, run
from offset_common.errors import OperatorError
from offset_common.forward.code import Code
from offset_common.forward.config_directory import IDENTITY, ConfigDirectory
from offset_common.identity import Identity, encode_key, save_identity
from offset_common.option_values import read_count
from offset_common.tickets import RelayTicket

LOCALHOST = "127.0.0.1"
TIMEOUT = 60.0  # seconds
CHUNK = 1024 * 1024  # bytes
CONNECTIONS = 200
PROBES = 50
DELAY = 0.025  # seconds each way between a machine and the relay


class Way(NamedTuple):
    """One way to forward a port, while its programs run.

    Args:
        port: the port that leads to the server.
        pids: its processes.
    """

    port: int
    pids: list[int]


class Figures(NamedTuple):
    """The figures of one way.

    Args:
        rate: MB/s of a bulk copy.
        costs: ns of CPU time of each process per byte copied, without sender and receiver.
        first_byte: ms from connecting to the first byte of an answer.
        many: seconds for CONNECTIONS connections at once, each with a question and an answer.
    """

    rate: float
    costs: list[float]
    first_byte: float
    many: float


def serve(pipe: Pipe) -> None:
    """Run the server in a child: echo what begins with "e", and count what begins with "b"."""
    listening = socket.create_server((LOCALHOST, 0), backlog=2 * CONNECTIONS)
    pipe.send(listening.getsockname()[1])
    while True:
        sock, _ = listening.accept()
        if not os.fork():
            _answer(sock)
            os._exit(0)
        sock.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _answer(sock: socket.socket) -> None:
    buffer = bytearray(CHUNK)
    kind = sock.recv(1)
    if kind == b"e":
        sock.sendall(sock.recv(100))
        return
    count = 0
    while size := sock.recv_into(buffer):
        count += size
    sock.sendall(str(count).encode())


def measure(way: Way, megabytes: int, rounds: int) -> Figures:
    """Return the figures of one way."""
    bulk = [_bulk(way, megabytes) for _ in range(rounds)]
    return Figures(
        max(rate for rate, _ in bulk),
        min((costs for _, costs in bulk), key=sum),
        min(median(_first_byte(way.port) for _ in range(PROBES)) for _ in range(rounds)) * 1000,
        min(_many(way.port) for _ in range(rounds)),
    )


def _bulk(way: Way, megabytes: int) -> tuple[float, list[float]]:
    content = os.urandom(CHUNK)
    size = megabytes * 1_000_000 // CHUNK * CHUNK
    with socket.create_connection((LOCALHOST, way.port), TIMEOUT) as sock:
        sock.sendall(b"b")
        before = [cpu_seconds(process_tree(pid)) for pid in way.pids]
        start = time.perf_counter()
        for _ in range(size // CHUNK):
            sock.sendall(content)
        after = [cpu_seconds(process_tree(pid)) for pid in way.pids]
        sock.shutdown(socket.SHUT_WR)
        answer = sock.recv(100)
        seconds = time.perf_counter() - start
    if int(answer) != size:
        raise OperatorError(f"{answer!r} of {size} bytes arrived")
    return size / seconds / 1e6, [(end - begin) / size * 1e9 for begin, end in zip(before, after)]


def cipher_cost() -> float:
    """Return the ns per byte of six passes through the cipher, as between two machines and a relay."""
    state, content = CipherState(os.urandom(32)), os.urandom(128 * 1024)
    best = float("inf")
    for _ in range(50):
        start = time.thread_time()
        for _ in range(6):
            state.encrypt(content)
        best = min(best, time.thread_time() - start)
    return best / len(content) * 1e9


def _first_byte(port: int) -> float:
    start = time.perf_counter()
    with socket.create_connection((LOCALHOST, port), TIMEOUT) as sock:
        sock.sendall(b"e?")
        if sock.recv(1) != b"?":
            raise OperatorError("a wrong answer")
        return time.perf_counter() - start


def _many(port: int) -> float:
    start = time.perf_counter()
    with ExitStack() as stack:
        socks = [
            stack.enter_context(socket.create_connection((LOCALHOST, port), TIMEOUT))
            for _ in range(CONNECTIONS)
        ]
        for number, sock in enumerate(socks):
            sock.sendall(b"e%08d" % number)
        for number, sock in enumerate(socks):
            if sock.recv(8) != b"%08d" % number:
                raise OperatorError("a wrong answer")
    return time.perf_counter() - start


# The ways.


@contextmanager
def started(command: list[str], **environment: str) -> Iterator[int]:
    """Run a command while the `with` block lasts; yield its process id."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def wait_for_answer(port: int) -> None:
    """Wait until a port leads to the server."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        with suppress(OSError, OperatorError):
            _first_byte(port)
            return
        time.sleep(0.1)
    raise OperatorError("a way to forward did not start")


@contextmanager
def direct(target: int) -> Iterator[Way]:
    """Nothing between client and server."""
    yield Way(target, [])


@contextmanager
def socat(target: int) -> Iterator[Way]:
    """One process for each connection, without encryption, on one machine only."""
    port = free_port()
    listen = f"TCP-LISTEN:{port},fork,reuseaddr,backlog=500"
    with started(["socat", "-b", "131072", listen, f"TCP:{LOCALHOST}:{target}"]) as pid:
        wait_for_answer(port)
        yield Way(port, [pid])


@contextmanager
def bore(program: str, target: int) -> Iterator[Way]:
    """A server that everyone can connect to and a client, without encryption."""
    port = free_port()
    with started([program, "server", "--bind-addr", LOCALHOST]) as server:
        time.sleep(0.5)
        command = [program, "local", str(target), "--to", LOCALHOST, "--port", str(port)]
        with started(command) as client:
            wait_for_answer(port)
            yield Way(port, [server, client])


@contextmanager
def stforward(target: int, delay: float = 0.0) -> Iterator[Way]:
    """A relay and both sides, encrypted to the relay and end to end."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name, RelayProcess() as relay, ExitStack() as stack:
        relay_port = relay.port
        if delay:
            relay_port = stack.enter_context(delayed(relay.port, delay))
        ticket = RelayTicket(relay.public_key, Address(LOCALHOST, relay_port))
        ticket.save(Path(name) / "relay.relay")
        home, laptop = Identity.generate(), Identity.generate()
        for side, identity in (("home", home), ("laptop", laptop)):
            directory = ConfigDirectory(Path(name) / side / "offset")
            directory.create()
            save_identity(identity, directory.path / IDENTITY)
        script = [sys.executable, str(ROOT / "stforward.py")]
        share = [*script, "share", str(target), "--relay", str(Path(name) / "relay.relay"), "--allow"]
        share_pid = stack.enter_context(
            started([*share, encode_key(laptop.public_key)], XDG_CONFIG_HOME=str(Path(name) / "home"))
        )
        to = [*script, "to", str(Code(ticket, home.public_key)), str(port)]
        to_pid = stack.enter_context(started(to, XDG_CONFIG_HOME=str(Path(name) / "laptop")))
        wait_for_answer(port)
        yield Way(port, [relay.pid, share_pid, to_pid])


def compare(megabytes: int, rounds: int, bore_program: Optional[str]) -> int:
    """Print a table of all ways that are available on this machine."""
    server = Child(serve)
    target = server.receive()
    ways = {"direct": direct(target)}
    if shutil.which("socat"):
        ways["socat"] = socat(target)
    program = bore_program or shutil.which("bore")
    if program:
        ways["bore"] = bore(program, target)
    ways["stforward"] = stforward(target)
    print(f"| way | bulk copy | CPU time for a byte | first byte | {CONNECTIONS} connections at once |")
    print("|---|---|---|---|---|")
    for name, way in ways.items():
        with way as running:
            figures = measure(running, megabytes, rounds)
        print(
            f"| {name} | {figures.rate:.0f} MB/s | {sum(figures.costs):.1f} ns | {figures.first_byte:.2f} ms"
            f" | {figures.many * 1000:.0f} ms |",
            flush=True,
        )
    relay, share, to = figures.costs
    print(
        f"\nOf the CPU time, the relay takes {relay:.1f} ns, `share` {share:.1f} and `to` {to:.1f}."
        f" The six passes of the cipher alone take {cipher_cost():.1f}."
    )
    with stforward(target, DELAY) as slow:
        seconds = median(_first_byte(slow.port) for _ in range(PROBES // 2))
    round_trip = 4 * DELAY
    print(
        f"\nWith {DELAY * 1000:.0f} ms each way between each machine and the relay, a round trip takes"
        f" {round_trip * 1000:.0f} ms.\nThe first byte over a new connection takes {seconds * 1000:.0f} ms,"
        f" {seconds / round_trip:.2f} round trips."
    )
    server.stop()
    return 0


def main() -> int:
    """Run the comparison; return the exit status."""

    def work() -> int:
        arguments = parse(__doc__ or "", sys.argv[1:], __version__)
        megabytes = read_count("--megabytes", arguments["--megabytes"], 100_000)
        return compare(megabytes, read_count("--rounds", arguments["--rounds"], 100), arguments["--bore"])

    return run("bench.forwarding", work)


if __name__ == "__main__":
    sys.exit(main())
