"""The loop: what other threads give it is done at once, and nobody keeps the others waiting."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from offset_common.relay.loop import READ, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


class Note:
    """A member that notes what it is called for."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_ready(self, mask: int) -> None:
        self.calls.append("ready")

    def on_deadline(self) -> None:
        self.calls.append("deadline")


def test_a_task_of_another_thread_wakes_the_loop(loop: Loop) -> None:
    ran_in: list[str] = []

    def task() -> None:
        ran_in.append(threading.current_thread().name)
        loop.stop()

    threading.Timer(0.05, loop.adopt, [task]).start()
    started = time.monotonic()
    loop.run()
    assert ran_in == [threading.current_thread().name]
    assert time.monotonic() - started < 5.0


def test_tasks_of_many_threads_all_run_once(loop: Loop) -> None:
    done: list[int] = []

    def give(start: int) -> None:
        for number in range(start, start + 500):
            loop.adopt(lambda number=number: done.append(number))  # type: ignore[misc]

    threads = [threading.Thread(target=give, args=(start,)) for start in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10.0
    while len(done) < 4000:
        assert time.monotonic() < deadline
        loop.run_round()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(4000))


def test_a_task_that_adopts_itself_again_keeps_nobody_waiting(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    note = Note()
    loop.register(ours, READ, note)
    rounds: list[int] = []

    def again() -> None:
        rounds.append(1)
        loop.adopt(again)

    again()
    theirs.send(b"x")
    loop.run_round()
    loop.run_round()
    assert note.calls == ["ready", "ready"]
    assert len(rounds) == 3
    ours.close()
    theirs.close()


class Reader(Note):
    """A member that has much to do, or little."""

    def __init__(self, loop: Loop, little: bool) -> None:
        super().__init__()
        self._loop = loop
        self._little = little

    def on_ready(self, mask: int) -> None:
        if self._little:
            self._loop.little_to_do()


@pytest.mark.parametrize(
    ("members", "crowd"),
    [
        pytest.param([], False, id="nobody"),
        pytest.param(["little"], False, id="who is alone"),
        pytest.param(["much", "much"], False, id="who all have much to do"),
        pytest.param(["much", "little"], True, id="little beside much"),
        pytest.param(["little", "little", "much"], True, id="three"),
        pytest.param(["little"] * 20, False, id="so many that they wait anyway"),
    ],
)
def test_a_crowd_is_somebody_with_little_to_do_among_a_few_and_never_what_wakes_the_loop(
    loop: Loop, members: list[str], crowd: bool
) -> None:
    pairs = [socket.socketpair() for _ in members]
    for (ours, theirs), kind in zip(pairs, members):
        loop.register(ours, READ, Reader(loop, kind == "little"))
        theirs.send(b"x")
    loop.adopt(lambda: None)
    loop.run_round()
    assert loop.crowded is crowd
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_a_deadline_ends_the_wait_for_sockets(loop: Loop) -> None:
    note = Note()
    loop.deadlines.schedule(note, loop.now + 0.01)
    started = time.monotonic()
    while not note.calls:
        loop.run_round()
    assert note.calls == ["deadline"]
    assert time.monotonic() - started < 5.0
