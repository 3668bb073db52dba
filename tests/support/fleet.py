"""A fleet of relay processes, and the servers that hold its directory."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.support.node import Endpoint, Node, assert_listening
from tests.support.peer import Peer
from tests.support.process import PATIENCE, free_port, wait_until
from tests.support.relay_log import ConnectionEnd, fields_in
from tests.support.relay_process import LOCALHOST, RelayProcess, write_identity

SERVERS = [name for name in ("valkey-server", "redis-server") if shutil.which(name)]
"""The servers that this machine has."""
LIBRARIES = [name for name in ("valkey", "redis") if importlib.util.find_spec(name)]
"""The client libraries that this Python has."""

AWAY, PRESENT = "^warning: directory away", "^directory present"
"""Log lines of a host that loses the directory, and that finds it."""

QUICK_BEATS = ("offset_common.fleet.membership:BEAT_INTERVAL=0.5",)
"""Changes for `inject`: heartbeats come five times as often."""
EVERY_LINE = tuple(f"offset_common.relay.log:LINES_PER_{unit}=1000000" for unit in ("ADDRESS", "KIND"))
"""Changes for `inject`: the log has no limits, which tests would reach together."""


def entry_expires_after(seconds: int) -> str:
    """Return a change for `inject`: the entry of a host lives shorter."""
    return f"offset_common.fleet.entries:HOST_TTL={seconds * 1000}"


def needs_server() -> str:
    """Return the program of a server, and skip the test where there is none."""
    if not SERVERS or not LIBRARIES:
        pytest.skip("needs valkey-server or redis-server, and the package valkey or redis")
    return SERVERS[0]


class DirectoryServer:
    """A valkey-server or redis-server on a port of its own.

    Args:
        directory: its working directory.
        program: its name.
        options: more of its command line.
    """

    def __init__(self, directory: Path, program: Optional[str] = None, options: Sequence[str] = ()) -> None:
        self.program = program or needs_server()
        self.port = free_port()
        self.url = f"valkey://{LOCALHOST}:{self.port}/0"
        self._directory = directory
        self._options = options
        self._process: Optional[subprocess.Popen[bytes]] = None
        self.start()

    def start(self) -> None:
        """Start the process, and wait until it answers."""
        fixed = ("--bind", LOCALHOST, "--port", str(self.port), "--save", "", "--dir", str(self._directory))
        self._process = subprocess.Popen(
            [self.program, *fixed, *self._options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, "the answer of the server")

    def kill(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def signal(self, number: int) -> None:
        """Send a signal, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def ask(self, *words: object) -> Any:
        """Execute one command."""
        module = importlib.import_module(LIBRARIES[0])
        client = (module.Valkey if LIBRARIES[0] == "valkey" else module.Redis)(port=self.port)
        with contextlib.closing(client):
            return client.execute_command(*words)

    def keys(self, kind: str) -> set[str]:
        """Return the last parts of the directory's keys of one kind, such as "listener"."""
        found = self.ask("KEYS", f"offset:*:{kind}:*")
        return {key.decode().rpartition(":")[2] for key in found}

    def _answers(self) -> bool:
        with contextlib.suppress(Exception):
            return bool(self.ask("PING"))
        return False


class FleetProcesses:
    """Relay processes with one identity; each test peer goes to a random one unless a test chooses.

    Args:
        directory: for the identity file.
        url: of the directory.
        count: how many.
        options: more of each command line.
        make: makes a host.
        prefix: a command line to put before each.
    """

    def __init__(
        self,
        directory: Path,
        url: str,
        count: int = 3,
        options: Sequence[str] = (),
        make: type[RelayProcess] = RelayProcess,
        prefix: Sequence[str] = (),
    ) -> None:
        self._make = make
        self.identity = write_identity(directory)
        self._url = url
        self._options = options
        self._prefix = prefix
        self._random = random.Random(count)
        self.hosts: list[RelayProcess] = []
        for number in range(count):
            self.hosts.append(self.start(f"host-{number}"))
        self.wait_until_complete()

    def start(
        self,
        name: str,
        *options: str,
        url: Optional[str] = None,
        port: int = 0,
        prefix: Sequence[str] = (),
    ) -> RelayProcess:
        """Start one more host.

        Args:
            name: its name.
            options: more of its command line.
            url: of the directory, if that differs from what others use.
            port: where it listens for other hosts; 0 for any.
            prefix: a command line to put before its own.
        """
        fleet = ("--fleet", url or self._url, "--fleet-laddr", f"{LOCALHOST}:{port}", "--fleet-name", name)
        settings = (*fleet, *self._options, *options)
        return self._make(self.identity, options=settings, prefix=prefix or self._prefix)

    def add(self, host: RelayProcess) -> RelayProcess:
        """Add a started host to the fleet once it has found the directory."""
        self.hosts.append(host)
        self.wait_until_complete()
        return host

    def wait_until_complete(self) -> None:
        """Wait until each host has found the directory."""
        for host in self.hosts:
            host.wait_for_line(PRESENT)

    @property
    def public_key(self) -> bytes:
        """The key of the relay."""
        return self.hosts[0].public_key

    @property
    def lines(self) -> list[str]:
        """Return the log lines of all hosts."""
        return [line for host in self.hosts for line in host.lines]

    @property
    def failures(self) -> list[str]:
        """Return the lines that report bugs, of all hosts."""
        return [line for host in self.hosts for line in host.failures]

    @property
    def memory(self) -> int:
        """Return the resident bytes of all hosts."""
        return sum(host.memory for host in self.hosts)

    def ends(self, port: Optional[int] = None, role: str = "", reason: str = "") -> list[ConnectionEnd]:
        """Return the ended connections of all hosts."""
        return [end for host in self.hosts for end in host.ends(port, role, reason)]

    def endpoint(self) -> Endpoint:
        """Return a random host's address and the relay's key."""
        return self._random.choice([host for host in self.hosts if host.alive]).endpoint()

    def kill(self) -> None:
        """Kill all hosts."""
        for host in self.hosts:
            host.kill()


class RoamingNode(Node):
    """A node whose every connection goes to a random host."""

    def __init__(self, fleet: FleetProcesses, released: bool = False) -> None:
        super().__init__(fleet.endpoint(), released)
        self._fleet = fleet

    def dial(self, expected: Optional[bytes] = None) -> Peer:
        """Open a TCP connection to a random host."""
        self.relay = self._fleet.endpoint()
        return super().dial(expected)


class NodeAt(Node):
    """A node that chooses the host of each connection."""

    def at(self, host: RelayProcess) -> NodeAt:
        """Make the next connections to one host."""
        self.relay = host.endpoint()
        return self

    def is_reached_from(self, host: RelayProcess, listener: Peer) -> bool:
        """Return whether a connect at a host is announced to a listener of this node."""
        return self.at(host)._is_announced(listener)


NewNodeAt = Callable[..., NodeAt]


def listeners_at(fleet: FleetProcesses, new_node_at: NewNodeAt) -> list[tuple[NodeAt, Peer]]:
    """Return a node that listens at each host."""
    nodes = [new_node_at().at(host) for host in fleet.hosts]
    return [(node, node.listen()) for node in nodes]


def assert_all_reachable(
    fleet: FleetProcesses, new_node_at: NewNodeAt, listening: Sequence[tuple[NodeAt, Peer]]
) -> None:
    """Check that each listener is reached through each host, and its tunnels accepted at any."""
    for node, listener in listening:
        for host in fleet.hosts:
            assert_listening(new_node_at().at(host), node, listener)


def fleet_address(host: RelayProcess) -> tuple[str, int]:
    """Return where a host listens for the others."""
    address = fields_in(host.wait_for_line("^fleet ready"))["address"]
    return LOCALHOST, int(address.rpartition(":")[2])
