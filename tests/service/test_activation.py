"""Socket activation: sockets that exist before the relay, and the errors about sockets of the wrong kind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from offset_common.errors import UsageError
from offset_common.identity import Identity, save_identity
from offset_common.service.activation import take_passed_sockets
from tests.commands import run_python
from tests.service.conftest import StartUpgrading
from tests.service.relays import ends, open_files
from tests.support.hosts import needs_ipv6
from tests.support.node import Endpoint, Node, meet
from tests.support.process import PATIENCE, ROOT, LoggedProcess, free_port, wait_until
from tests.support.relay_log import parse_ready
from tests.support.relay_process import LOCALHOST

# Opens a socket of each kind in its arguments as descriptor 3, 4, ..., then runs the rest of its arguments.
LAUNCHER = """
import os, socket, sys
separator = sys.argv.index("--")
for number, kind in enumerate(sys.argv[1:separator], 3):
    if kind == "closed":
        continue
    if kind == "file":
        opened = os.open("/dev/null", os.O_RDWR)
    else:
        family = socket.AF_UNIX if kind == "unix" else socket.AF_INET6 if kind == "tcp6" else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
        sock.bind({"unix": "", "tcp6": ("::1", 0)}.get(kind, ("127.0.0.1", 0)))
        if kind in ("tcp", "tcp6", "unix"):
            sock.listen()
        opened = sock.detach()
    os.dup2(opened, number + 100)
    os.close(opened)
for number, kind in enumerate(sys.argv[1:separator], 3):
    if kind != "closed":
        os.dup2(number + 100, number)
        os.close(number + 100)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.environ.setdefault("LISTEN_FDS", str(separator - 1))
os.execv(sys.argv[separator + 1], sys.argv[separator + 1:])
"""


class Activated(LoggedProcess):
    """A relay that is started with sockets.

    Args:
        directory: for its identity.
        kinds: what its descriptors from 3 on are.
        options: its command line, without the identity.
        variables: more of its environment.
    """

    def __init__(self, directory: Path, kinds: Sequence[str], *options: str, **variables: str) -> None:
        identity = directory / "relay.ident"
        self.identity = Identity.generate()
        save_identity(self.identity, identity)
        environment = [f"{name}={value}" for name, value in variables.items()]
        launcher = [sys.executable, "-c", LAUNCHER, *kinds, "--"]
        program = [sys.executable, str(ROOT / "strelay.py"), "-i", str(identity)]
        super().__init__(["env", *environment, *launcher, *program, *options])

    def ready(self) -> list[Endpoint]:
        """Wait until the relay is ready; return the addresses that it listens on."""
        ready = parse_ready(self.wait_for_line("^relay ready"))
        assert ready is not None
        found = [address.rpartition(":") for address in ready.addresses]
        return [Endpoint((host.strip("[]"), int(port)), self.identity.public_key) for host, _, port in found]


@contextlib.contextmanager
def activated(directory: Path, kinds: Sequence[str], *options: str, **variables: str) -> Iterator[Activated]:
    relay = Activated(directory, kinds, *options, **variables)
    try:
        yield relay
    finally:
        relay.kill()


@needs_ipv6
def test_relay_serves_the_sockets_that_it_gets(tmp_path: Path) -> None:
    with activated(tmp_path, ["tcp", "tcp6"]) as relay:
        endpoints = relay.ready()
        assert [endpoint.address[0] for endpoint in endpoints] == [LOCALHOST, "::1"]
        for endpoint in endpoints:
            meet(endpoint)
        assert relay.stop() == 0
    assert relay.count_lines("warning|error") == 0


def test_passed_sockets_take_the_place_of_laddr(tmp_path: Path) -> None:
    with socket.create_server((LOCALHOST, 0)) as taken:
        address = f"{LOCALHOST}:{taken.getsockname()[1]}"
        with activated(tmp_path, ["tcp"], "--laddr", address) as relay:
            (endpoint,) = relay.ready()
            meet(endpoint)
            line = relay.wait_for_line("^option not used: ")
    assert f'option=--laddr value={address} reason="systemd passed {LOCALHOST}:{endpoint.address[1]}"' in line


def test_passed_sockets_need_no_laddr_in_a_configuration_file(tmp_path: Path) -> None:
    pytest.importorskip("tomllib")
    (tmp_path / "relay.toml").write_text("drain = 1\n")
    with activated(tmp_path, ["tcp"], "--config", str(tmp_path / "relay.toml")) as relay:
        meet(relay.ready()[0])


def test_a_socket_named_status_is_that_of_the_status(tmp_path: Path) -> None:
    with activated(tmp_path, ["tcp", "tcp"], LISTEN_FDNAMES="offset-relay.socket:status") as relay:
        (endpoint,) = relay.ready()
        meet(endpoint)
        url = f"http://{LOCALHOST}:{relay.status_port}/healthz"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            assert answer.status == 200


@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss")
def test_accepted_sockets_get_the_options_of_the_relay(tmp_path: Path) -> None:
    """systemd knows nothing of --socket-buffer; without TCP_NODELAY small messages wait."""
    with activated(tmp_path, ["tcp"], "--socket-buffer", "64") as relay:
        (endpoint,) = relay.ready()
        with Node(endpoint) as node:
            node.open()
            line = ["ss", "-tmnH", "src", f":{endpoint.address[1]}"]
            shown = subprocess.run(line, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    assert re.search(r"skmem:\(r\d+,rb65536,t\d+,tb65536,", shown), shown


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("udp", "is not a TCP socket; use ListenStream= with a port"),
        ("unix", "is not a TCP socket; use ListenStream= with a port"),
        ("file", "is not a socket; pass only sockets of ListenStream="),
        ("bound", "does not listen; use Accept=no in the socket unit"),
        ("closed", "cannot be used: Bad file descriptor"),
    ],
)
def test_a_wrong_socket_is_reported_in_one_line(tmp_path: Path, kind: str, reason: str) -> None:
    with activated(tmp_path, ["tcp", kind], LISTEN_FDNAMES="a:b") as relay:
        assert relay.wait() == 2
    reasons = [reason]
    if kind == "closed":  # a library may keep a file open under this number, as some builds of libffi do
        reasons.append("is not a socket; pass only sockets of ListenStream=")
    assert relay.lines in [[f"strelay: descriptor 4 (b), which systemd passed, {text}"] for text in reasons]


@pytest.mark.parametrize("count", ["", "0", "-1", "257", "1e3", "x" * 1000, "99999999999999999999"])
def test_a_wrong_number_of_sockets_is_refused(count: str) -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}
    with pytest.raises(UsageError, match=r"^LISTEN_FDS must be a number from 1 to 256, not ") as caught:
        take_passed_sockets(environment)
    assert len(str(caught.value)) < 200
    assert environment == {}


def test_names_must_fit_the_sockets(tmp_path: Path) -> None:
    with activated(tmp_path, ["tcp"], LISTEN_FDNAMES="a:b") as relay:
        assert relay.wait() == 2
    assert relay.lines == ["strelay: LISTEN_FDNAMES has 2 names for 1 sockets; unset LISTEN_PID"]


@pytest.mark.parametrize("process", ["1", "", "nonsense"])
def test_sockets_of_another_process_are_left_alone(process: str) -> None:
    assert take_passed_sockets({"LISTEN_PID": process, "LISTEN_FDS": "1"}) == []


def test_laddr_is_missing_without_own_sockets(tmp_path: Path) -> None:
    with activated(tmp_path, ["tcp"], LISTEN_PID="1") as relay:
        assert relay.wait() == 2
    assert relay.lines == [
        "strelay: --laddr is missing, and systemd passed no socket; give it as in --laddr 0.0.0.0:4567"
    ]


def test_an_upgrade_keeps_passed_sockets(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading(prefix=[sys.executable, "-c", LAUNCHER, "tcp", "--"])
    with ends(relay.upgrade()):
        meet(relay.endpoint())


SOCKET_ACTIVATE = shutil.which("systemd-socket-activate")


@pytest.mark.skipif(SOCKET_ACTIVATE is None, reason="needs systemd-socket-activate")
def test_systemd_itself_starts_the_relay(tmp_path: Path) -> None:
    port = free_port()
    identity = Identity.generate()
    save_identity(identity, tmp_path / "relay.ident")
    program = [sys.executable, str(ROOT / "strelay.py"), "-i", str(tmp_path / "relay.ident")]
    activate = [str(SOCKET_ACTIVATE), "-l", f"{LOCALHOST}:{port}", "--fdname=relay"]
    relay = LoggedProcess([*activate, *program])
    try:
        relay.wait_for_line("Listening on")
        meet(Endpoint((LOCALHOST, port), identity.public_key))  # the first connection starts the relay
        relay.wait_for_line("relay ready")
        assert relay.stop() == 0
    finally:
        relay.kill()


def test_descriptors_are_not_passed_on(tmp_path: Path) -> None:
    with activated(tmp_path, ["tcp"], "--workers", "2") as relay:
        relay.ready()
        wait_until(lambda: len(relay.children) == 2, "two workers")
        listening = _listening_sockets(relay.pid)
        assert listening
        for worker in relay.children:
            assert not listening & set(open_files(worker))


def _listening_sockets(pid: int) -> set[str]:
    """Return the listening TCP sockets of a process, as its descriptors show them."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    return inodes & set(open_files(pid))


def test_the_variables_are_gone_after_the_start() -> None:
    program = (
        "import json, os\n"
        "from offset_common.service.origin import Origin\n"
        "Origin(os.environ)\n"
        "print(json.dumps(sorted(os.environ)))\n"
    )
    given = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "LISTEN_PID": "1"}
    given |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "LISTEN_PIDFDID": "1"}
    done = run_python("-c", program, directory=ROOT, environment=given)
    assert not set(json.loads(done.out)) & set(given)
