"""strelay.py as a process, and the fixtures that run it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Optional

import pytest

from offset_common.address import Address
from offset_common.identity import short_key
from offset_common.tickets import RelayTicket
from tests.support.node import Endpoint, Node
from tests.support.peer import Peer
from tests.support.process import ROOT, LoggedProcess, wait_until
from tests.support.relay_log import ConnectionEnd, State, is_failure, parse_end, parse_ready, parse_state

LOCALHOST = "127.0.0.1"
TICKS = os.sysconf("SC_CLK_TCK")


def write_identity(directory: Path) -> Path:
    """Write a fresh identity file, mode 0600."""
    path = directory / f"relay-{os.urandom(4).hex()}.ident"
    seed = base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()
    path.touch(mode=0o600)
    path.write_text(json.dumps({"privateKey": seed}, indent=2))
    return path


def command(identity: Path, address: str, *options: str, script: str = "strelay.py") -> list[str]:
    """Return the command line of a relay."""
    return [sys.executable, str(ROOT / script), "--idfile", str(identity), "--laddr", address, *options]


def without_root() -> list[str]:
    """Return the prefix that runs a command without root's capabilities; empty without root."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv to drop root's capabilities")
    return [setpriv, "--bounding-set=-all", "--inh-caps=-all"]


class RelayProcess(LoggedProcess):
    """A running relay; a thread collects its log.

    Args:
        identity: the identity file.
        address: where it listens.
        options: more of its command line.
        prefix: a command line to put before it.
        script: the program, from the root of the project.
    """

    def __init__(
        self,
        identity: Path,
        address: str = f"{LOCALHOST}:0",
        options: Sequence[str] = (),
        prefix: Sequence[str] = (),
        script: str = "strelay.py",
    ) -> None:
        self.identity = identity
        super().__init__([*prefix, *command(identity, address, *options, script=script)])
        ready = parse_ready(self.wait_for_line("^relay ready"))
        assert ready is not None, self.lines
        self.addresses = ready.addresses
        self.public_key = base64.urlsafe_b64decode(ready.public_key + "=")
        self.port = int(self.addresses[0].rpartition(":")[2])
        self.ticket = RelayTicket(self.public_key, Address(LOCALHOST, self.port))

    def ends(self, port: Optional[int] = None, role: str = "", reason: str = "") -> list[ConnectionEnd]:
        """Return the ended connections of a port, role and reason (a regular expression)."""
        return [
            end
            for end in map(parse_end, list(self.lines))
            if end is not None
            and port in (None, end.port)
            and role in ("", end.role)
            and re.search(reason, end.reason)
        ]

    def wait_for_end(
        self, port: Optional[int] = None, role: str = "", reason: str = "", count: int = 1
    ) -> ConnectionEnd:
        """Return the first of at least `count` ended connections of a port, role and reason."""
        what = f"{count} ends of port {port}, role {role!r}, reason {reason!r}"
        self.wait_for(lambda _: len(self.ends(port, role, reason)) >= count, what)
        return self.ends(port, role, reason)[0]

    def wait_for_end_of(self, peer: Peer) -> ConnectionEnd:
        """Return the end of a test peer; the line of an older peer may have the same port."""
        key = short_key(peer.channel.public_key)

        def found() -> list[ConnectionEnd]:
            return [end for end in self.ends(peer.port) if end.key == key]

        self.wait_for(lambda _: found(), f"the end of port {peer.port} with key {key}")
        return found()[0]

    def wait_until_empty(self) -> None:
        """Wait until no connection is left; the lines about their ends are then in the log."""
        wait_until(lambda: self.state().figures["connections"] == 0, "the end of all connections")

    @property
    def failures(self) -> list[str]:
        """Return the lines that report a bug of the relay."""
        return [line for line in self.lines if is_failure(line)]

    def state(self) -> State:
        """Ask the relay for its state."""
        before = len(_states(self.lines))
        self.process.send_signal(signal.SIGUSR1)
        self.wait_for(lambda lines: len(_states(lines)) > before, "the state")
        return _states(self.lines)[-1]

    # The process.

    def endpoint(self, host: str = LOCALHOST) -> Endpoint:
        """Return the relay's address and key."""
        return Endpoint((host, self.port), self.public_key)

    @property
    def workers(self) -> list[int]:
        """Return the process ids of its workers."""
        return self.children

    @property
    def pids(self) -> list[int]:
        """Return the process ids of the relay and of its workers."""
        return [self.pid, *self.workers]

    @property
    def memory(self) -> int:
        """Return its resident bytes."""
        return resident_bytes(self.pid)

    @property
    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    @property
    def threads(self) -> int:
        """Return how many threads it has."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    @property
    def cpu_seconds(self) -> float:
        """Return the processor seconds that it and its workers have used."""
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids]
        return sum(int(fields[11]) + int(fields[12]) for fields in stats) / TICKS

    def stop_cleanly(self) -> None:
        """Stop it with SIGTERM; fail unless the status is 0 and no bug was logged."""
        assert self.stop() == 0, self.lines[-50:]
        assert self.failures == []


def resident_bytes(pid: int) -> int:
    """Return the resident bytes of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def _states(lines: Iterable[str]) -> list[State]:
    return [state for state in map(parse_state, list(lines)) if state is not None]


StartRelay = Callable[..., RelayProcess]
NewNode = Callable[..., Node]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[RelayProcess]:
    """A relay that the tests of a module share; RELAY_OPTIONS of the module are its options."""
    options = getattr(request.module, "RELAY_OPTIONS", ())
    script = getattr(request, "param", "strelay.py")
    process = RelayProcess(write_identity(tmp_path_factory.mktemp("relay")), options=options, script=script)
    yield process
    process.kill()
    assert process.failures == [], "a bug was logged"


BOTH_RELAYS = ("strelay.py", "examples/small_relay.py")
both_relays = pytest.mark.parametrize("relay", BOTH_RELAYS, indirect=True, scope="module")
"""Runs a test with the real relay and with the small one, which knows the same roles."""


@pytest.fixture
def start_relay(tmp_path: Path) -> Iterator[StartRelay]:
    """Start relays for one test."""
    with ExitStack() as started:

        def start(
            *options: str,
            address: str = f"{LOCALHOST}:0",
            identity: Optional[Path] = None,
            prefix: Sequence[str] = (),
        ) -> RelayProcess:
            process = RelayProcess(identity or write_identity(tmp_path), address, options, prefix)
            started.callback(process.kill)
            return process

        yield start


@pytest.fixture
def new_node(relay: RelayProcess) -> Iterator[NewNode]:
    """Make nodes that use the module's relay."""
    with ExitStack() as nodes:

        def make(released: bool = False) -> Node:
            return nodes.enter_context(Node(relay.endpoint(), released))

        yield make
