"""stforward on a system that temporarily allows no more threads, as in a small container."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from offset_common.forward import event_loop, targets
from offset_common.forward.display import Display
from offset_common.forward.event_loop import EventLoop
from offset_common.forward.messages import Kind, encode_stream
from offset_common.forward.services import Service
from offset_common.forward.shared_session import SharedSession
from offset_common.forward.traffic import Traffic
from offset_common.threads import start_thread
from tests.forward.in_process import BothSides
from tests.forward.programs import Setting, echo, exchange, server
from tests.support.process import PATIENCE


@pytest.fixture
def failed(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Make the first thread of each name fail; yield these names."""
    names: set[str] = set()
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name.startswith("offset ") and thread.name not in names | {"offset share"}:
            names.add(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    yield names


def test_both_sides_outlive_a_lack_of_threads(setting: Setting, failed: set[str]) -> None:
    with server(echo) as target, BothSides(setting, target).running() as both:
        both.in_loop(both.share.start)
        both.in_loop(both.reach.start)
        both.welcomes.get(timeout=PATIENCE)
        refused, reasons = both.connect()
        with refused:
            assert reasons.get(timeout=PATIENCE).startswith("the system allows no more threads; ")
        sock, _ = both.connect()
        with sock:
            assert exchange(sock, b"again") == b"again"
    assert failed >= {
        f"offset {name}" for name in ("connect", "listener", "accept", "service", "name lookup")
    }


def test_reset_streams_do_not_accumulate_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()
    starts: list[str] = []

    def count(work: Callable[[], object], name: str) -> threading.Thread:
        starts.append(name)
        return start_thread(work, name)

    monkeypatch.setattr(event_loop, "start_thread", count)

    class Hanging(Service):
        def connect(self) -> socket.socket:
            ready.wait(PATIENCE)
            raise ConnectionRefusedError

    loop, display = EventLoop(), Display(quiet=True)
    connecting = targets.Targets(loop, {"a": Hanging("a", "/a")}, Traffic(loop, display), 10, display)
    session = SharedSession(loop, connecting.connect, "a caller")
    for number in range(1, 31):
        session.receive(encode_stream(Kind.OPEN, number, "a"))
        session.receive(encode_stream(Kind.RESET, number))
    assert len(starts) == 10
    ready.set()
    loop.close()
