"""examples/small_relay.py: short enough to read, and robust; tests/end_to_end tests its roles."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from offset_common.identity import Identity, save_identity
from tests.commands import run_script
from tests.support.node import Node, assert_listening
from tests.support.process import ROOT
from tests.support.relay_process import RelayProcess, write_identity

SCRIPT = "examples/small_relay.py"


@pytest.fixture
def small_relay(tmp_path: Path) -> Iterator[RelayProcess]:
    process = RelayProcess(write_identity(tmp_path), script=SCRIPT)
    yield process
    process.kill()


def test_small_relay_has_at_most_150_lines() -> None:
    assert len((ROOT / SCRIPT).read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    ("identity", "address", "status", "words"),
    [
        ("missing", "127.0.0.1:0", 1, "no file with this name"),
        ("relay.ident", "192.0.2.1:0", 1, "address"),
        ("relay.ident", "127.0.0.1", 2, "port"),
        ("relay.ident", "in use", 1, "address"),
    ],
)
def test_a_wrong_start_is_reported_in_a_line(
    tmp_path: Path, identity: str, address: str, status: int, words: str
) -> None:
    save_identity(Identity.generate(), tmp_path / "relay.ident")
    with socket.create_server(("127.0.0.1", 0)) as other:
        if address == "in use":
            address = f"127.0.0.1:{other.getsockname()[1]}"
        done = run_script(SCRIPT, "--idfile", tmp_path / identity, "--laddr", address)
    assert (done.status, done.out) == (status, "")
    (line,) = done.err.splitlines()
    assert line.startswith("small_relay: ") and words in line


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", bytes(7) + b"\x04\0\0\0\7", b"\xff" * 5000])
def test_garbage_ends_its_connection_only(small_relay: RelayProcess, garbage: bytes) -> None:
    with Node(small_relay.endpoint()) as callee, Node(small_relay.endpoint()) as caller:
        listener = callee.listen()
        stranger = caller.dial()
        stranger.send_bytes(garbage)
        stranger.wait_for_close()
        assert_listening(caller, callee, listener)
    assert small_relay.failures == []


@pytest.mark.slow
def test_the_comparison_prints_both_relays() -> None:
    pytest.importorskip("capnp")
    done = subprocess.run(
        [sys.executable, "-m", "bench.small_relay", "--quick", "forwarding"],
        cwd=ROOT, capture_output=True, text=True, timeout=110, check=True,
    )  # fmt: skip
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["small", "real"]
    assert [row.split()[:4] for row in rows] == [
        ["forwarding", "message", "of", size] for size in ("64", "1024", "65536")
    ]
