"""Measure what a fleet adds: the latency of a connect, the CPU time of a message, connects per second.

Usage:
  fleet [--server PROGRAM]
  fleet -h | --help

Two hosts and a directory run on this machine. The listener is at one host; the peers that connect arrive at
the same host, or at the other one.

  --server PROGRAM  valkey-server or redis-server [default: redis-server].
  -h, --help        Show this help.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.client import Client, Tunnel
from bench.encoding import encode_as_own, make_plaintexts
from bench.processes import free_port
from bench.relay_process import RelayProcess
from bench.tunnels import relay_series
from offset_common import __version__
from offset_common.command_line import parse, run
from offset_common.constants import MAX_PADDING_SENT
from offset_common.errors import UsageError
from offset_common.identity import Identity
from offset_common.wire.messages import IncomingConnection, InitConnection, InitRole

CONNECTS = 200  # for the latency, at each host
BURST = 1000  # connects at once
AUTHENTICATING = 3.0  # seconds: a peer may wait for 4 s before its InitConnection
ROUNDS = 3
SIZES = {"64 B": (64, 4000), "1 KiB": (1024, 4000), "16 KiB": (16 * 1024, 1500), "64 KiB": (64 * 1024, 500)}
START_TIMEOUT = 20.0  # seconds


class BothHosts:
    """Two hosts, whose CPU time is counted together.

    Args:
        hosts: the hosts.
    """

    def __init__(self, *hosts: RelayProcess) -> None:
        self._hosts = hosts

    def cpu_seconds(self) -> float:
        """Return the CPU time in seconds that both have used so far."""
        return sum(host.cpu_seconds() for host in self._hosts)


def main() -> int:
    """Measure and print; return the exit status."""

    def work() -> int:
        program: str = parse(__doc__, sys.argv[1:], __version__)["--server"]
        if shutil.which(program) is None:
            raise UsageError(f"the program {program} is missing; install it, or choose another with --server")
        with running_fleet(program) as (home, other):
            measure_latency(home, other)
            measure_messages(home, other)
            measure_burst(home, other)
        return 0

    return run("fleet", work)


@contextmanager
def running_fleet(program: str) -> Iterator[tuple[RelayProcess, RelayProcess]]:
    """Run a directory and two hosts."""
    with ExitStack() as started:
        directory = started.enter_context(tempfile.TemporaryDirectory())
        port = free_port()
        server = subprocess.Popen(
            [program, "--port", str(port), "--save", "", "--dir", directory], stdout=subprocess.DEVNULL
        )
        started.callback(server.wait)
        started.callback(server.kill)
        identity = Identity.generate()
        options = ("--fleet", f"valkey://127.0.0.1:{port}/0", "--fleet-laddr", "127.0.0.1:0")
        hosts = [started.enter_context(RelayProcess(options, identity=identity)) for _ in range(2)]
        for host in hosts:
            wait_until(lambda host=host: "directory present" in host.log())  # type: ignore[misc]
        yield hosts[0], hosts[1]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise UsageError("the fleet did not start in time")
        time.sleep(0.01)


def listen(host: RelayProcess, others: RelayProcess) -> tuple[Identity, Client]:
    """Return a node that listens at a host and can be reached through the other one."""
    node = Identity.generate()
    listener = Client(host, node, InitConnection(InitRole.LISTEN))
    time.sleep(1.0)  # until the other host finds it
    probe = connect(others, node)
    receive_announcement(listener)
    probe.sock.close()
    return node, listener


def connect(host: RelayProcess, node: Identity) -> Client:
    """Connect to a node."""
    return Client(host, Identity.generate(), InitConnection(InitRole.CONNECT, node.public_key))


def receive_announcement(listener: Client) -> bytes:
    """Return the key of the next announced connect."""
    return IncomingConnection.decode(listener.receive()).public_key


def measure_latency(home: RelayProcess, other: RelayProcess) -> None:
    """Print how long it takes from the InitConnection of a connect to its announcement."""
    node, listener = listen(home, other)
    init = InitConnection(InitRole.CONNECT, node.public_key).encode()
    times: dict[RelayProcess, list[float]] = {home: [], other: []}
    for _ in range(CONNECTS):
        for host, found in times.items():
            caller = Client(host, Identity.generate())
            started = time.perf_counter()
            caller.send(init)
            receive_announcement(listener)
            found.append(time.perf_counter() - started)
            caller.sock.close()
    one, two = (1000 * statistics.median(found) for found in times.values())
    print(f"connect: p50 {one:.2f} ms at one host, {two:.2f} ms through another: {two - one:.2f} ms added")


def measure_messages(home: RelayProcess, other: RelayProcess) -> None:
    """Print the CPU time of a message in a tunnel inside one host, and in one between two hosts."""
    node, listener = listen(home, other)
    for name, (size, count) in SIZES.items():
        plaintexts = make_plaintexts(encode_as_own, size, MAX_PADDING_SENT)
        costs = []
        for arriving in (home, other):
            near = connect(arriving, node)
            accept = InitConnection(InitRole.ACCEPT, receive_announcement(listener))
            far = Client(home, node, accept)
            far.send(b"joined")
            near.receive()
            both: Any = BothHosts(home, other)
            series = relay_series(both, [Tunnel(near, far)], plaintexts, count, verify=False)
            for _ in range(ROUNDS):
                series.run()
            costs.append(series.cpu * 1e6)
        one, two = costs
        print(f"message of {name}: {one:.1f} us at one host, {two:.1f} us through another: {two / one:.2f} x")


def measure_burst(home: RelayProcess, other: RelayProcess) -> None:
    """Print how many connects of authenticated peers pass from one host to the other in a second."""
    node, listener = listen(home, other)
    init = InitConnection(InitRole.CONNECT, node.public_key).encode()
    callers: list[Client] = []
    until = time.monotonic() + AUTHENTICATING
    while len(callers) < BURST and time.monotonic() < until:
        callers.append(Client(other, Identity.generate()))
    before = home.cpu_seconds(), other.cpu_seconds()
    started = time.perf_counter()
    for caller in callers:
        caller.send(init)
    for _ in callers:
        receive_announcement(listener)
    seconds = time.perf_counter() - started
    cpu = [1000 * (host.cpu_seconds() - used) / len(callers) for host, used in zip((home, other), before)]
    print(
        f"{len(callers)} connects at once: {len(callers) / seconds:.0f} a second;"
        f" CPU time of each {cpu[0]:.2f} ms at the home, {cpu[1]:.2f} ms at the other host"
    )


if __name__ == "__main__":
    sys.exit(main())
