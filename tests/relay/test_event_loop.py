"""The event loop: the order of turns, tasks of other threads, deadlines and coarse polling."""

from __future__ import annotations

import gc
import random
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from offset_common.relay import event_loop
from offset_common.relay.event_loop import (
    READ,
    WRITE,
    EventLoop,
    ReadyEntry,
)
from offset_common.relay.fair_queue import LONG_TURN

MILLISECOND = 0.001


class Times:
    """The two clocks of a loop: the current time, and the duration of turns."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.spent = 0.0


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    made = Times()
    for clock in ("perf_counter", "thread_time"):
        monkeypatch.setattr(event_loop, clock, lambda: made.spent)
    return made


@pytest.fixture
def loop(times: Times) -> Iterator[EventLoop]:
    made = EventLoop(lambda: times.now)
    made.add_periodic(lambda: None, lambda: times.now)  # never wait
    yield made
    made.close()


class Busy(ReadyEntry):
    """A connection whose turns take about `cost` seconds, and that requests another turn each time."""

    _chance = random.Random(3)

    def __init__(self, loop: EventLoop, times: Times, turns: list[Any], address: str, cost: float) -> None:
        super().__init__(loop, address)
        self._loop, self._times, self._turns, self._cost = loop, times, turns, cost

    def on_turn(self, events: int) -> bool:
        self._turns.append(self)
        self._times.spent += self._cost * self._chance.uniform(0.8, 1.2)
        self._loop.request_turn(self)
        return True


class Quiet(ReadyEntry):
    """A connection with a socket, which gets a turn when data arrives."""

    def __init__(self, loop: EventLoop, turns: list[Any], address: str) -> None:
        super().__init__(loop, address)
        self.turns = turns
        self.events: list[int] = []
        self.sock, self.peer = socket.socketpair()

    def on_turn(self, events: int) -> bool:
        self.turns.append(self)
        self.events.append(events)
        self.sock.recv(100)
        return False

    def close(self) -> None:
        self.sock.close()
        self.peer.close()


@pytest.mark.parametrize("address", ["quiet", "busy"])
@pytest.mark.parametrize("cost", [0.1 * MILLISECOND, MILLISECOND, 10 * MILLISECOND])
def test_quiet_connection_passes_hundreds_of_busy_ones(
    loop: EventLoop, times: Times, address: str, cost: float
) -> None:
    turns: list[Any] = []
    for _ in range(500):
        loop.request_turn(Busy(loop, times, turns, "busy", cost))
    while len(turns) < 2000:
        loop.run_once()
    quiet = Quiet(loop, turns, address)
    loop.register(quiet.sock, READ, quiet)
    for _ in range(5):
        for _ in range(20):
            loop.run_once()
        turns.clear()
        quiet.peer.send(b"x")
        while quiet not in turns:
            loop.run_once()
        assert turns.index(quiet) <= 2, "it waited for more than two turns"
    loop.unregister(quiet.sock)
    quiet.close()


class Awakened(ReadyEntry):
    """A connection that was quiet, and may have received a lot."""

    def __init__(self, loop: EventLoop, turns: list[Any], much: bool) -> None:
        super().__init__(loop, "quiet")
        self._turns, self._much = turns, much

    def on_turn(self, events: int) -> bool:
        self._turns.append(self)
        return False

    def has_much_input(self) -> bool:
        return self._much


class Interrupted(Awakened):
    """A connection whose turns take long because the system runs another program meanwhile."""

    def on_turn(self, events: int) -> bool:
        time.sleep(5 * LONG_TURN)
        return super().on_turn(events)


def test_small_messages_pass_those_that_wake_up_with_much_input(loop: EventLoop) -> None:
    turns: list[Any] = []
    crowd = [Awakened(loop, turns, True) for _ in range(1000)]
    small = [Awakened(loop, turns, False) for _ in range(10)]
    for _ in range(2):  # the first turns make them light
        turns.clear()
        for entry in (*crowd, *small):
            loop.request_turn(entry)
        while len(turns) < len(crowd) + len(small):
            loop.run_once()
    assert max(map(turns.index, small)) < 100


def test_interrupted_turns_leave_a_connection_light() -> None:
    loop = EventLoop()
    turns: list[Any] = []
    entry = Interrupted(loop, turns, False)
    for count in (1, 2, 3):
        loop.request_turn(entry)
        loop.run_once()
        assert len(turns) == count
    assert entry.light
    loop.close()


@pytest.mark.parametrize(
    ("cost", "least", "most"), [(MILLISECOND, 3, 4), (0.5, 1, 1), (MILLISECOND / 4, 10, 15)]
)
def test_sockets_are_polled_again_after_a_few_ms_of_turns(
    loop: EventLoop, times: Times, cost: float, least: int, most: int
) -> None:
    turns: list[Any] = []
    for _ in range(100):
        loop.request_turn(Busy(loop, times, turns, "busy", cost))
    for _ in range(10):
        turns.clear()
        loop.run_once()
        assert least <= len(turns) <= most


def test_readiness_is_collected_until_the_turn(loop: EventLoop, times: Times) -> None:
    turns: list[Any] = []
    quiet = Quiet(loop, turns, "a")
    quiet.peer.send(b"x")
    loop.request_turn(quiet, READ)
    loop.request_turn(quiet, WRITE)
    loop.request_turn(quiet)
    loop.run_once()
    loop.run_once()
    assert quiet.events == [READ | WRITE]
    quiet.close()


def test_coarse_polling_notices_at_the_next_full_second(loop: EventLoop, times: Times) -> None:
    turns: list[Any] = []
    first, second = Quiet(loop, turns, "a"), Quiet(loop, turns, "b")
    times.now = 1000.5
    loop.run_once()
    for entry in (first, second):
        loop.register_coarse(entry.sock, entry)
        entry.peer.send(b"x")
    times.now = 1000.9
    loop.run_once()
    assert turns == []
    times.now = 1001.0
    loop.run_once()
    loop.run_once()
    assert set(turns) == {first, second}
    loop.unregister_coarse(second.sock)
    turns.clear()
    for entry in (first, second):
        entry.peer.send(b"x")
    times.now = 1001.9
    loop.run_once()
    assert turns == []
    times.now = 1002.1
    loop.run_once()
    loop.run_once()
    assert turns == [first]
    for entry in (first, second):
        entry.close()


@pytest.fixture
def endless_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a loop that is not woken wait for longer than a test may take."""
    monkeypatch.setattr(event_loop, "LONGEST_WAIT", 3600.0)


def slow_poll(times: Times, seconds: float) -> Callable[[float], list[Any]]:
    """Return a poll that takes that many seconds and finds nothing."""

    def poll(timeout: float) -> list[Any]:
        times.spent += seconds
        return []

    return poll


def test_coarse_poll_does_not_lengthen_the_turns(
    loop: EventLoop, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[Any] = []
    loop.request_turn(Busy(loop, times, turns, "busy", MILLISECOND))
    quiet = Quiet(loop, turns, "a")
    loop.register_coarse(quiet.sock, quiet)
    monkeypatch.setattr(loop._coarse_selector, "select", slow_poll(times, 0.02))
    times.now += 1.0
    loop.run_once()
    assert 3 <= len(turns) <= 4
    loop.unregister_coarse(quiet.sock)
    quiet.close()


def test_coarse_poll_hands_out_some_connections_in_each_round(
    loop: EventLoop, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[Any] = []
    quiet = Quiet(loop, turns, "a")
    loop.register_coarse(quiet.sock, quiet)
    crowd = [Awakened(loop, turns, False) for _ in range(1000)]
    ready = [(selectors.SelectorKey(quiet.sock, quiet.sock.fileno(), READ, each), READ) for each in crowd]
    polls: list[float] = []

    def poll(timeout: float) -> list[Any]:
        polls.append(times.now)
        return ready

    monkeypatch.setattr(loop._coarse_selector, "select", poll)
    given: list[int] = []
    while sum(given) < len(crowd):
        times.now += 1.0
        before = len(turns) + loop.turns.waiting
        loop.run_once()
        given.append(len(turns) + loop.turns.waiting - before)
    assert max(given) < len(crowd) / 2
    assert len(polls) == 1, "polled again before all that it found were handed over"
    loop.unregister_coarse(quiet.sock)
    quiet.close()


@pytest.mark.parametrize(("polling", "least", "most"), [(0.001, 4, 5), (0.1, 9, 13)])
def test_turns_after_a_slow_poll_are_bounded(
    loop: EventLoop,
    times: Times,
    monkeypatch: pytest.MonkeyPatch,
    polling: float,
    least: int,
    most: int,
) -> None:
    turns: list[Any] = []
    loop.request_turn(Busy(loop, times, turns, "busy", MILLISECOND))
    monkeypatch.setattr(loop._selector, "select", slow_poll(times, polling))
    loop.run_once()
    assert least <= len(turns) <= most


class Rival:
    """A watched socket with something to read, which stops watching another one."""

    def __init__(self, loop: EventLoop, calls: list[Rival]) -> None:
        self._loop = loop
        self._calls = calls
        self.sock, self._peer = socket.socketpair()
        self._peer.send(b"input")
        self.rival = self
        loop.register(self.sock, READ, self)

    def on_ready(self, events: int) -> None:
        self._calls.append(self)
        self.rival.close()

    def close(self) -> None:
        self._loop.unregister(self.sock)
        self.sock.close()
        self._peer.close()


def test_socket_is_not_handled_once_it_is_not_watched(loop: EventLoop) -> None:
    calls: list[Rival] = []
    first, second = Rival(loop, calls), Rival(loop, calls)
    first.rival, second.rival = second, first
    loop.run_once()
    assert len(calls) == 1
    calls[0].close()


def test_task_of_another_thread_wakes_the_loop(endless_wait: None) -> None:
    loop = EventLoop()
    ran_in: list[threading.Thread] = []

    def task() -> None:
        ran_in.append(threading.current_thread())
        loop.stop()

    timer = threading.Timer(0.05, loop.call_soon_threadsafe, [task])
    timer.start()
    loop.run()
    assert ran_in == [threading.current_thread()]
    timer.join()
    loop.close()


def test_tasks_of_many_threads_all_run_once(endless_wait: None) -> None:
    loop = EventLoop()
    done: list[int] = []

    def give(start: int) -> None:
        for number in range(start, start + 500):
            loop.call_soon_threadsafe(lambda number=number: done.append(number))  # type: ignore[misc]

    threads = [threading.Thread(target=give, args=(start,)) for start in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    while len(done) < 4000:
        loop.run_once()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(4000))
    loop.close()


def test_task_that_comes_just_before_the_wait_ends_it(
    loop: EventLoop, endless_wait: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    time_to_wait = loop._time_to_wait

    def another_thread_is_faster() -> float:
        wait = time_to_wait()
        for number in range(2):
            loop.call_soon_threadsafe(lambda number=number: done.append(number))  # type: ignore[misc]
        return wait

    with monkeypatch.context() as race:
        race.setattr(loop, "_time_to_wait", another_thread_is_faster)
        loop.run_once()
    assert done == [0, 1]


def test_task_of_another_thread_sends_no_wake_up_to_a_busy_loop(loop: EventLoop) -> None:
    done: list[int] = []
    loop.call_soon_threadsafe(lambda: done.append(1))
    assert select.select([loop._wake_reader], [], [], 0)[0] == []
    loop.run_once()
    assert done == [1]


def test_task_that_reschedules_itself_delays_no_other(loop: EventLoop) -> None:
    turns: list[Any] = []
    quiet = Quiet(loop, turns, "a")
    loop.register(quiet.sock, READ, quiet)
    rounds: list[int] = []

    def again() -> None:
        rounds.append(1)
        loop.call_soon(again)

    again()
    quiet.peer.send(b"x")
    loop.run_once()
    assert turns == [quiet]
    assert len(rounds) == 2
    loop.unregister(quiet.sock)
    quiet.close()


class Timer:
    """Something with a deadline."""

    def __init__(self, on_deadline: Callable[[], None]) -> None:
        self.on_deadline = on_deadline


def schedule_deadlines(loop: EventLoop, done: list[int]) -> None:
    for number in range(1000):
        loop.deadlines.schedule(Timer(partial(done.append, number)), float(number))


def call_tasks(loop: EventLoop, done: list[int]) -> None:
    for number in range(1000):
        loop.call_soon(partial(done.append, number))


def call_for_items(loop: EventLoop, done: list[int]) -> None:
    for start in (0, 500):
        loop.call_for_each(range(start, start + 500), done.append)


# Each may close a connection, which takes a tenth of a millisecond or more. So others wait for a few
# milliseconds, however many there are. These bounds are not the constants of the loop.
@pytest.mark.parametrize(
    ("give_work", "most"), [(schedule_deadlines, 50), (call_for_items, 50), (call_tasks, 200)]
)
def test_work_for_many_rounds_delays_no_turn(
    loop: EventLoop, times: Times, give_work: Callable[[EventLoop, list[int]], None], most: int
) -> None:
    turns: list[Any] = []
    loop.request_turn(Busy(loop, times, turns, "busy", 1.0))
    done: list[int] = []
    give_work(loop, done)
    times.now += 1.0
    while len(done) < 1000:
        before, turns_before = len(done), len(turns)
        loop.run_once()
        assert 0 < len(done) - before <= most
        assert len(turns) == turns_before + 1
    assert done == list(range(1000))


def test_wake_ends_the_wait_even_if_its_socket_is_full(endless_wait: None) -> None:
    loop = EventLoop()
    for _ in range(100_000):
        loop.wake()
    loop.run_once()
    loop.close()
    loop.wake()


def test_loop_runs_on_a_python_without_gc_freeze(monkeypatch: pytest.MonkeyPatch, loop: EventLoop) -> None:
    monkeypatch.delattr(gc, "freeze")  # PyPy has none
    loop.call_soon(loop.stop)
    loop.run()
