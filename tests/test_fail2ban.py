"""deploy/fail2ban finds the addresses that disturb a relay, and no others, in the lines of a real log."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from configparser import ConfigParser
from pathlib import Path

import pytest

from offset_common.identity import encode_key
from offset_common.relay.log_format import format_time
from tests.documents import FAIL2BAN_COMMANDS
from tests.support.client import wait_for_end
from tests.support.encoding import VERSION_FRAME
from tests.support.hosts import needs_ipv6
from tests.support.node import Node, make_tunnel
from tests.support.process import PATIENCE, ROOT
from tests.support.relay_process import RelayProcess, write_identity

FILTER = ROOT / "deploy/fail2ban/filter.d/offset-relay.conf"
# The pattern that fail2ban puts in place of its tag, for addresses as the relay writes them.
ADDRESS = r"\[?(?P<address>[0-9.]+|[0-9a-f:]+)\]?"
GARBAGE = b"\xff" * 100
BANNED = {"127.0.0.2", "127.0.0.3", "127.0.0.4", "::1"}


def disturb(relay: RelayProcess, source: str, data: bytes) -> None:
    """Connect from an address, send something, and wait for the end."""
    relay_host = "::1" if ":" in source else "127.0.0.1"
    with socket.create_connection((relay_host, relay.port), PATIENCE, source_address=(source, 0)) as sock:
        sock.sendall(data)
        wait_for_end(sock)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The log of a relay that honest nodes at 127.0.0.1 use, and that others disturb."""
    directory = tmp_path_factory.mktemp("relay")
    access = directory / "access.txt"
    access.write_text("deny 127.0.0.4\n")
    identity = write_identity(directory)
    relay = RelayProcess(identity, "[::]:0", ["--access", str(access)])
    try:
        with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
            name = 'x" reason="the peer broke the protocol'
            access.write_text(f"deny 127.0.0.4\nlisten {encode_key(callee.public_key)} {name}\n")
            relay.process.send_signal(signal.SIGHUP)
            relay.wait_for_line("^reloaded")
            make_tunnel(caller, callee, callee.listen())
            caller.connect(bytes(32)).messages_until_end()
        disturb(relay, "127.0.0.2", b"GET / HTTP/1.1\r\n\r\n")
        disturb(relay, "127.0.0.3", VERSION_FRAME + GARBAGE)
        disturb(relay, "127.0.0.4", b"")
        disturb(relay, "::1", b"GET / HTTP/1.1\r\n\r\n")
        assert relay.stop() == 0
        return [f"{format_time(time.time())} {line}" for line in relay.lines]
    finally:
        relay.kill()


@needs_ipv6
def test_patterns_find_peers_that_disturb_the_relay(lines: list[str]) -> None:
    parser = ConfigParser()
    parser.read(FILTER)
    patterns = parser["Definition"]["failregex"].replace("<ADDR>", ADDRESS).splitlines()
    texts = [line.partition(" ")[2] for line in lines]
    for start in ("", "relay.example.com offset-relay[123]: "):  # a file, and the journal
        found = [re.search(pattern, start + text) for pattern in patterns for text in texts]
        assert {match["address"] for match in found if match} == BANNED


@needs_ipv6
def test_fail2ban_finds_the_same_addresses(lines: list[str], tmp_path: Path) -> None:
    tool = shutil.which("fail2ban-regex")
    if tool is None:
        pytest.skip("needs Debian's fail2ban")
    log = tmp_path / "relay.log"
    log.write_text("\n".join(lines) + "\n")
    done = subprocess.run([tool, "-o", "ip", str(log), str(FILTER)], capture_output=True, text=True)
    assert set(done.stdout.split()) == BANNED, done.stderr


def test_fail2ban_accepts_the_jail(tmp_path: Path) -> None:
    tool = shutil.which("fail2ban-client")
    if tool is None:
        pytest.skip("needs Debian's fail2ban")
    shutil.copytree("/etc/fail2ban", tmp_path, dirs_exist_ok=True)
    assert len(FAIL2BAN_COMMANDS) == 2
    for line in FAIL2BAN_COMMANDS:
        words = shlex.split(line.replace("/etc/fail2ban", str(tmp_path)))
        subprocess.run(words, cwd=ROOT, check=True)
    (tmp_path / "jail.d/defaults-debian.conf").unlink(missing_ok=True)  # its jail needs the log of ssh
    done = subprocess.run([tool, "-c", str(tmp_path), "--test"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
