"""What the limits' flags say is what they do; lines of the log that come in numbers are folded."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

import strelay
from offset_common.relay.limits import Limits
from tests.attack.conftest import BeginSiege
from tests.attack.siege import Siege
from tests.attack.supplies import push
from tests.end_to_end.relay_process import command, write_identity

FLAGS = [
    "--connections",
    "--unproven",
    "--buffers",
    "--stall",
    "--accepts",
    "--handshake-threads",
    "--per-address",
    "--per-key",
    "--waiting",
    "--waiting-for",
    "--tunnels",
    "--drain",
]


def test_there_are_so_many_connections_and_a_few_more_that_prove_themselves(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--connections", "50")
    crowd = siege.crowd()
    crowd.connect(150, crowd.listen().identity.public_key, source="127.0.0.2")
    crowd.run_for(0.5)
    assert siege.state()["connections"] <= 50
    siege.relay.wait_for_line("too many connections in all|gave way")


def test_there_are_so_many_unproven_and_no_more(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--unproven", "30")
    crowd = siege.crowd()
    crowd.dial(100)
    crowd.run_for(0.3)
    assert sum(not each.ended for each in crowd.visitors) <= 30
    siege.relay.wait_for_line("gave way")


def test_so_many_connections_are_accepted_each_second(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--accepts", "20", watched=False)
    crowd = siege.crowd()
    visitors = crowd.dial(60)
    began = time.monotonic()
    assert crowd.run(lambda: all(each.received for each in visitors))
    assert 0.8 < time.monotonic() - began < 4.5  # in three seconds of the clock, the first of which had begun


@pytest.mark.parametrize("threads", [1, 3])
def test_so_many_threads_compute_handshakes(begin_siege: BeginSiege, threads: int) -> None:
    siege = begin_siege("--handshake-threads", str(threads))
    siege.crowd().prove(50)
    assert siege.state()["threads"] == threads + 1


@pytest.mark.slow
def test_the_buffers_flag_is_what_is_buffered(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--buffers", "2")
    crowd = siege.crowd()
    for near, far in crowd.tunnels(40):
        far.stop_reading()
        push(near, 300_000, 100)
    for _ in range(20):
        crowd.run_for(0.1)
        assert siege.state()["bytes buffered"] < 5 << 20


def test_the_help_page_names_every_limit_with_its_default() -> None:
    page = strelay.__doc__
    assert page is not None
    for flag in FLAGS:
        (line,) = [part for part in page.split("\n  --")[1:] if part.startswith(flag[2:] + " ")]
        assert "[default: " in line, flag
    assert "ready" in page and str(Limits().connections_per_address) in page


def test_lines_of_one_kind_are_folded(begin_siege: BeginSiege) -> None:
    siege = begin_siege()
    crowd = siege.crowd()
    for _ in range(5):
        for visitor in crowd.dial(200):
            visitor.send_bytes(b"\xff" * 16)
        assert crowd.all_end(crowd.visitors)
    siege.end_watch()
    assert siege.relay.stop() == 0
    siege.relay.wait_for_line("and 990 more in the last minute: ")
    assert siege.count_lines("not an Offset peer") <= 12


def test_each_end_is_counted_by_its_reason(siege: Siege) -> None:
    crowd = siege.crowd()
    for visitor in crowd.dial(30):
        visitor.send_bytes(b"\xff" * 16)
    assert crowd.all_end(crowd.visitors)
    assert siege.state()["not an Offset peer, or another protocol version"] == 30


@pytest.mark.parametrize("flag", FLAGS)
def test_a_limit_that_is_no_number_is_refused(tmp_path: Path, flag: str) -> None:
    line = command(write_identity(tmp_path), "127.0.0.1:0", flag, "many")
    wrong = subprocess.run(line, capture_output=True, timeout=10, check=False)
    assert wrong.returncode == 2
    assert flag in wrong.stderr.decode()
    assert len(wrong.stderr.decode().splitlines()) == 1
