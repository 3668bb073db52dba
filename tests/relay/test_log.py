"""The log: lines come out whole and in order, and whatever happens to them never stops the relay."""

from __future__ import annotations

import os
import pty
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from offset_common.relay.log import FOLD_AFTER, FOLD_WINDOW, MAX_PENDING, Log

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            pass


def read_all(reader: int) -> bytes:
    """Read what the pipe holds now."""
    parts: list[bytes] = []
    while True:
        try:
            data = os.read(reader, 1 << 16)
        except BlockingIOError:
            return b"".join(parts)
        if not data:
            return b"".join(parts)
        parts.append(data)


def read_while_flushing(log: Log, reader: int) -> bytes:
    """Read until the log has nothing more to write."""
    text = b""
    while log.pending:
        log.flush()
        text += read_all(reader)
    return text


def test_lines_come_out_in_order(pipe: Pipe) -> None:
    log = Log(pipe[1])
    for number in range(100):
        log.line(f"line {number}")
    log.flush()
    assert read_all(pipe[0]).decode().splitlines() == [f"line {n}" for n in range(100)]
    assert not log.pending


def test_lines_longer_than_what_a_pipe_takes_at_once_come_out_whole(pipe: Pipe) -> None:
    log = Log(pipe[1])
    lines = ["short", "x" * 4095, "y" * 4096, "z" * 100_000, "short again", "ä" * 5000]
    for line in lines:
        log.line(line)
    assert read_while_flushing(log, pipe[0]).decode() == "".join(f"{line}\n" for line in lines)


def test_what_cannot_be_encoded_is_escaped(pipe: Pipe) -> None:
    log = Log(pipe[1])
    log.line("bad \udcff")
    log.flush()
    assert read_all(pipe[0]) == b"bad \\udcff\n"


def test_a_pipe_that_nobody_reads_blocks_nothing_and_keeps_so_much_and_no_more(pipe: Pipe) -> None:
    log = Log(pipe[1])
    for number in range(20_000):
        log.line(f"{number:06} {'x' * 90}")
        if number % 100 == 0:
            log.flush()
    assert log.pending
    assert sum(map(len, log._pending)) == log._pending_size <= MAX_PENDING
    lines = read_while_flushing(log, pipe[0]).decode().splitlines()
    numbers = [int(line.split()[0]) for line in lines if "lost" not in line]
    assert numbers == list(range(len(numbers))), "the first lines are kept, in order and whole"
    lost = [int(line.split()[0]) for line in lines if "lost" in line]
    assert sum(lost) == 20_000 - len(numbers) > 0


def test_lines_come_again_once_somebody_reads_again(pipe: Pipe) -> None:
    log = Log(pipe[1])
    while not log._dropped:
        log.line("x" * 1000)
        log.flush()
    read_while_flushing(log, pipe[0])
    log.line("afterwards")
    assert read_while_flushing(log, pipe[0]).endswith(b"afterwards\n")


def test_a_non_blocking_descriptor_is_fine(pipe: Pipe) -> None:
    os.set_blocking(pipe[1], False)
    log = Log(pipe[1])
    for _ in range(200):
        log.line("x" * 1000)
        log.flush()
    assert read_while_flushing(log, pipe[0]) == (b"x" * 1000 + b"\n") * 200


def test_a_terminal_that_nobody_reads_blocks_nothing() -> None:
    ours, theirs = pty.openpty()

    def free_it() -> None:
        os.set_blocking(theirs, False)
        os.read(ours, 1 << 20)

    rescue = threading.Timer(5.0, free_it)  # or a write that blocks would block the test for good
    rescue.start()
    log = Log(theirs)
    for number in range(1000):
        log.line(f"{number:06} {'x' * 90}")
        log.flush()
    assert log.pending
    assert rescue.is_alive(), "a write blocked"
    rescue.cancel()
    os.set_blocking(ours, False)
    text = b""
    while b"000999" not in text:
        text += read_all(ours)
        log.flush()
    assert [int(line.split()[0]) for line in text.decode().splitlines()] == list(range(1000))
    assert os.get_blocking(theirs), "others have it as well"
    log.close()
    os.close(theirs)
    os.close(ours)


def test_closing_gives_back_the_terminal() -> None:
    ours, theirs = pty.openpty()
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    log = Log(theirs)
    log.line("the only one")
    log.close()
    log.line("too late")
    log.flush()
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before
    assert os.read(ours, 100) == b"the only one\r\n"
    os.close(theirs)
    os.close(ours)


def test_a_reader_that_is_gone_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    log = Log(pipe[1])
    os.close(pipe[0])
    for _ in range(1000):
        log.line("x" * 1000)
        log.flush()
    log.close()


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        log = Log(full.fileno())
        for _ in range(1000):
            log.line("x" * 1000)
            log.flush()
        rounds = 0
        while log.pending:
            log.flush()
            rounds += 1
            assert rounds < 1000, "it must not try for ever"
        log.close()


def test_what_a_full_disk_cost_is_counted_once_it_has_room(pipe: Pipe) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    log = Log(full)
    for _ in range(7):
        log.line("lost")
    log.flush()
    os.dup2(pipe[1], full)
    log.line("kept")
    log.flush()
    os.close(full)
    assert b"7 log lines were lost" in read_all(pipe[0])


def test_nowhere_is_a_place_for_a_log() -> None:
    log = Log(None)
    log.line("anything")
    log.folded("kind", "anything", 0.0)
    log.flush()
    assert not log.pending
    log.close()


def folded_lines(log: Log, reader: int) -> list[str]:
    log.flush()
    return read_all(reader).decode().splitlines()


def test_lines_of_one_kind_are_folded_into_their_count(pipe: Pipe) -> None:
    log = Log(pipe[1])
    for number in range(FOLD_AFTER + 5):
        log.folded("silence", f"silent {number}", 100.0 + number)
    log.folded("noise", "noisy", 100.0)
    assert folded_lines(log, pipe[0]) == [*(f"silent {n}" for n in range(FOLD_AFTER)), "noisy"]
    assert log.next_time() == 100.0 + FOLD_WINDOW
    log.handle_time(100.0 + FOLD_WINDOW - 0.1)
    assert folded_lines(log, pipe[0]) == []
    log.handle_time(100.0 + FOLD_WINDOW)
    assert folded_lines(log, pipe[0]) == ["and 5 more in the last minute: silence"]
    assert log.next_time() is None


def test_each_window_begins_anew(pipe: Pipe) -> None:
    log = Log(pipe[1])
    for start in (0.0, 1000.0):
        for _ in range(FOLD_AFTER + 1):
            log.folded("kind", "line", start)
        assert folded_lines(log, pipe[0]) == ["line"] * FOLD_AFTER
        log.handle_time(start + FOLD_WINDOW)
        assert folded_lines(log, pipe[0]) == ["and 1 more in the last minute: kind"]


def test_closing_writes_the_counts(pipe: Pipe) -> None:
    log = Log(pipe[1])
    for _ in range(FOLD_AFTER + 3):
        log.folded("kind", "line", 0.0)
    log.close()
    assert read_all(pipe[0]).decode().splitlines()[-1] == "and 3 more in the last minute: kind"
