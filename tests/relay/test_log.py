"""Log lines are complete and ordered, never block, and are collapsed when they repeat."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

import pytest

from offset_common.relay.log import (
    LINES_PER_ADDRESS,
    LINES_PER_KIND,
    LOGGER,
    MAX_ADDRESSES,
    MAX_PENDING,
    WINDOW,
    RelayLog,
    everything_logged,
    log_event,
)
from offset_common.relay.log_format import format_time
from tests.relay.harness import descriptors
from tests.support.process import PATIENCE
from tests.support.relay_log import without_time
from tests.terminals import open_terminal

TIME_SIZE = len("2026-11-27T13:28:36.123Z ")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Output(NamedTuple):
    """A log that writes to a pipe, and the pipe's reading end."""

    log: RelayLog
    clock: Clock
    reader: int

    def drain(self) -> bytes:
        """Return all bytes that the log writes while the pipe is being read."""
        data = read_available(self.reader)
        while self.log.pending:
            self.log.flush()
            data += read_available(self.reader)
        return data

    def lines(self) -> list[str]:
        """Return the lines written since the last call, without their times."""
        return [without_time(line) for line in self.drain().decode().splitlines()]

    def end_window(self) -> list[str]:
        """End the window of repeated lines; return the summaries."""
        self.clock.now += WINDOW
        self.log.handle_time()
        return self.lines()


def read_available(reader: int) -> bytes:
    """Return the bytes that a descriptor holds now."""
    data = b""
    try:
        while part := os.read(reader, 1 << 16):
            data += part
    except BlockingIOError:
        pass
    return data


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose reading end does not block."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def output(pipe: tuple[int, int]) -> Iterator[Output]:
    """A log that writes to a pipe, on a virtual clock."""
    clock = Clock()
    log = RelayLog(pipe[1], clock)
    yield Output(log, clock, pipe[0])
    log.close()


# Format


def test_line_is_event_then_fields(output: Output) -> None:
    log_event(
        "connection closed", key="abc=", reason="peer closed", detail=None, bytes_in=12, seconds=0.12345
    )
    assert output.lines() == ['connection closed: key=abc= reason="peer closed" bytes_in=12 seconds=0.123']


def test_traceback_follows_its_line(output: Output) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        log_event("bug", logging.ERROR, peer="1.2.3.4:5", exc_info=error)
    log_event("next")
    lines = output.lines()
    assert lines[:2] == ["error: bug: peer=1.2.3.4:5", "  Traceback (most recent call last):"]
    assert lines[-3:] == ["  ValueError: first", "  second", "next"]


def test_records_carry_event_and_fields(output: Output) -> None:
    records: list[logging.LogRecord] = []
    output.log.addFilter(lambda record: not records.append(record))  # type: ignore[func-returns-value]
    log_event("refused", logging.WARNING, collapse="kind", collapse_by="1.2.3.4", peer="p", left=None)
    (record,) = records
    assert (record.levelno, record.levelname, record.name) == (logging.WARNING, "WARNING", "offset.relay")
    assert record.getMessage() == "refused"
    assert vars(record)["fields"] == {"peer": "p", "left": None}


def test_what_python_would_print_is_logged(output: Output) -> None:
    def fail() -> None:
        raise RuntimeError("in a thread")

    with everything_logged():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        warnings.warn("from a library\n", stacklevel=1)
    lines = output.lines()
    assert (lines[0], lines[-2]) == ("error: bug", "  RuntimeError: in a thread")
    assert lines[-1] == 'warning: Python warning: text="from a library\\n"'


# Times


def test_line_starts_with_its_time_in_utc(output: Output) -> None:
    before = datetime.now(timezone.utc)
    log_event("event")
    after = datetime.now(timezone.utc)
    time, _, event = output.drain().decode().partition(" ")
    assert event == "event\n"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    logged = datetime.fromisoformat(time.replace("Z", "+00:00"))
    assert before - timedelta(milliseconds=1) <= logged <= after


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (951782399.9999, "2000-02-28T23:59:59.999Z"),
        (1795786116.125, "2026-11-27T13:28:36.125Z"),
    ],
)
def test_time_has_the_form_of_iso_8601(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


@pytest.mark.parametrize("stream", ["of the journal", "of something else", "malformed"])
def test_only_the_journal_gets_priorities_for_times(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    status = os.fstat(pipe[1])
    value = {
        "of the journal": f"{status.st_dev}:{status.st_ino}",
        "of something else": f"{status.st_dev}:{status.st_ino + 1}",
        "malformed": "journal",
    }[stream]
    monkeypatch.setenv("JOURNAL_STREAM", value)
    log = RelayLog(pipe[1])
    log_event("one")
    log_event("two", logging.WARNING)
    log_event("three", logging.ERROR, traceback="first\nsecond")
    log.close()
    lines = read_available(pipe[0]).decode().splitlines()
    if stream == "of the journal":
        assert lines == ["<6>one", "<4>warning: two", "<3>error: three", "<3>  first", "<3>  second"]
    else:
        texts = ["one", "warning: two", "error: three", "  first", "  second"]
        assert [without_time(line) for line in lines] == texts
        assert lines[:3] != texts[:3]


def test_count_of_lost_lines_has_a_time(output: Output) -> None:
    for _ in range(1000):
        log_event("x" * 1000)
    (lost,) = [line for line in output.drain().decode().splitlines() if "lost" in line]
    assert without_time(lost) != lost


# Writing


def test_lines_of_any_length_are_complete(output: Output) -> None:
    texts = ["short", "x" * 4095, "y" * 4096, "z" * 100_000, "short again"]
    for text in texts:
        log_event(text)
    assert output.lines() == texts


def test_whole_lines_are_written_at_once() -> None:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps writes apart
    reader.settimeout(PATIENCE)
    with reader, writer:
        log = RelayLog(writer.fileno())
        try:
            log_numbers(500, "line")
            log.flush()
            assert not log.pending
        finally:
            log.close()
        writer.close()
        writes = list(iter(lambda: reader.recv(1 << 16), b""))
    assert len(writes) > 1
    assert [data for data in writes if not data.endswith(b"\n")] == []


def test_unread_pipe_keeps_the_first_lines(output: Output) -> None:
    held = 0
    for number in range(20_000):
        log_event(f"{number:06} {'x' * 90}")
        if number % 100 == 0:
            output.log.flush()
            held = max(held, len(output.log.pending))
    assert MAX_PENDING - 200 < held <= MAX_PENDING
    lines = output.lines()
    lost = [line for line in lines if "log lines lost" in line]
    numbers = [int(line.split()[0]) for line in lines if line not in lost]
    assert numbers == list(range(len(numbers)))
    assert lost == [f"warning: log lines lost: count={20_000 - len(numbers)}"]


def test_unread_socket_blocks_nothing() -> None:
    # The log of systemd's journal is a stream socket.
    ours, theirs = socket.socketpair()
    log = RelayLog(theirs.fileno())
    rescue = threading.Timer(PATIENCE, ours.close)  # a write that blocks would block the test for good
    rescue.start()
    for number in range(4000):
        log_event(f"{number:06} {'x' * 90}")
        log.flush()
    assert rescue.is_alive(), "a write blocked"
    rescue.cancel()
    assert log.pending
    ours.setblocking(False)
    data = b""
    while log.pending:
        data += read_available(ours.fileno())
        log.flush()
    data += read_available(ours.fileno())
    lines = [without_time(line) for line in data.decode().splitlines() if "lost" not in line]
    assert [int(line.split()[0]) for line in lines] == list(range(len(lines)))
    log.close()
    ours.close()
    theirs.close()


def test_unread_terminal_blocks_nothing() -> None:
    ours, theirs = open_terminal()

    def unblock() -> None:
        os.set_blocking(theirs, False)
        os.read(ours, 1 << 20)

    rescue = threading.Timer(PATIENCE, unblock)  # a write that blocks would block the test for good
    rescue.start()
    log = RelayLog(theirs)
    for number in range(1000):
        log_event(f"{number:06} {'x' * 90}")
        log.flush()
    assert log.pending
    assert rescue.is_alive(), "a write blocked"
    rescue.cancel()
    assert os.get_blocking(theirs), "other programs share this descriptor"
    os.set_blocking(ours, False)
    data = b""
    while b"000999" not in data:
        data += read_available(ours)
        log.flush()
    lines = [without_time(line) for line in data.decode().splitlines()]
    assert [int(line.split()[0]) for line in lines] == list(range(1000))
    log.close()
    os.close(theirs)
    os.close(ours)


def test_closing_returns_the_terminal() -> None:
    ours, theirs = open_terminal()
    before = descriptors()
    log = RelayLog(theirs)
    log_event("only line")
    log.close()
    assert descriptors() == before
    assert without_time(os.read(ours, 100).decode()) == "only line\r\n"
    os.close(theirs)
    os.close(ours)


def test_closed_pipe_raises_nothing() -> None:
    reader, writer = os.pipe()
    log = RelayLog(writer)
    os.close(reader)
    for _ in range(1000):
        log_event("x" * 1000)
        log.flush()
    assert len(log.pending) <= MAX_PENDING
    log.close()
    os.close(writer)


def test_full_disk_keeps_lines_until_it_has_room(pipe: tuple[int, int]) -> None:
    disk = os.open("/dev/full", os.O_WRONLY)
    log = RelayLog(disk)
    for number in range(1000):
        log_event(f"{number:06} {'x' * 993}")
        log.flush()
    os.dup2(pipe[1], disk)
    lines = Output(log, Clock(), pipe[0]).lines()
    kept = MAX_PENDING // (TIME_SIZE + 1001)
    assert [line.split()[0] for line in lines if "lost" not in line] == [f"{n:06}" for n in range(kept)]
    assert [line for line in lines if "lost" in line] == [f"warning: log lines lost: count={1000 - kept}"]
    log.close()
    os.close(disk)


@pytest.mark.parametrize("end", ["closed", "no descriptor"])
def test_lines_without_output_go_nowhere(
    pipe: tuple[int, int], capfd: pytest.CaptureFixture[str], end: str
) -> None:
    log = RelayLog(pipe[1] if end == "closed" else None)
    if end == "closed":
        log.close()
    log_event("anything", logging.ERROR, collapse="kind")
    assert not log.pending
    assert log.next_time() == math.inf
    log.flush()
    log.close()
    assert read_available(pipe[0]) == b""
    assert capfd.readouterr() == ("", "")


def log_numbers(count: int, event: str) -> None:
    """Log an event with each number below a count."""
    for number in range(count):
        log_event(event, number=number)


def test_other_threads_may_log(output: Output) -> None:
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=log_numbers, args=(300, f"{n}")) for n in range(4)]
    for thread in threads:
        thread.start()
    lines = output.lines()
    while any(thread.is_alive() for thread in threads):
        lines += output.lines()
    sys.setswitchinterval(switch)
    lines += output.lines()
    assert sorted(lines) == sorted(f"{n}: number={i}" for n in range(4) for i in range(300))


# Repeated lines


def log_repeats(count: int, kind: str = "refused", address: str = "") -> None:
    """Log lines of one kind."""
    for number in range(count):
        log_event(kind, collapse=kind, collapse_by=address, number=number)


def test_repeats_are_summarised_after_the_window(output: Output) -> None:
    log_repeats(LINES_PER_ADDRESS + 1234)
    assert output.lines() == [f"refused: number={n}" for n in range(LINES_PER_ADDRESS)]
    assert output.log.next_time() == output.clock.now + WINDOW
    output.clock.now += WINDOW - 0.1
    output.log.handle_time()
    assert output.lines() == []
    assert output.end_window() == ["repeated lines left out: kind=refused count=1234"]
    assert output.log.next_time() == math.inf


def test_other_lines_are_never_collapsed(output: Output) -> None:
    for _ in range(1000):
        log_event("listener ready")
    assert output.lines() == ["listener ready"] * 1000
    assert output.log.next_time() == math.inf


def test_repeats_are_counted_by_address(output: Output) -> None:
    log_repeats(LINES_PER_ADDRESS + 7, address="1.2.3.4")
    log_repeats(LINES_PER_ADDRESS + 3, address="2001:db8::/56")
    log_repeats(LINES_PER_ADDRESS, address="5.6.7.8")
    assert len(output.lines()) == 3 * LINES_PER_ADDRESS
    (summary,) = output.end_window()
    assert summary == "repeated lines left out: kind=refused count=10 addresses=2 most_from=1.2.3.4"


def test_kinds_are_counted_apart(output: Output) -> None:
    log_repeats(LINES_PER_ADDRESS + 1, "kind one", "1.2.3.4")
    log_repeats(LINES_PER_ADDRESS + 2, "two", "1.2.3.4")
    assert len(output.lines()) == 2 * LINES_PER_ADDRESS
    assert output.end_window() == [
        'repeated lines left out: kind="kind one" count=1 addresses=1 most_from=1.2.3.4',
        "repeated lines left out: kind=two count=2 addresses=1 most_from=1.2.3.4",
    ]


def test_many_addresses_share_the_limit_of_a_kind(output: Output) -> None:
    for number in range(LINES_PER_KIND + 50):
        log_repeats(1, address=f"10.0.0.{number}")
    log_repeats(1, address="10.0.0.149")
    assert len(output.lines()) == LINES_PER_KIND
    (summary,) = output.end_window()
    assert summary == "repeated lines left out: kind=refused count=51 addresses=50 most_from=10.0.0.149"


def test_remembered_addresses_are_bounded(output: Output) -> None:
    log_repeats(LINES_PER_ADDRESS + 3, address="1.2.3.4")
    for number in range(20_000):
        log_repeats(1, address=f"2001:db8:{number:x}::/56")
    remembered = sum(len(counts) for counts in output.log._repeats._left_out.values())
    assert remembered <= MAX_ADDRESSES + 1
    output.lines()
    written = LINES_PER_KIND - LINES_PER_ADDRESS
    assert output.end_window() == [
        f"repeated lines left out: kind=refused count={3 + 20_000 - written} "
        f"addresses={MAX_ADDRESSES} most_from=1.2.3.4"
    ]


def test_closing_writes_the_summaries(pipe: tuple[int, int]) -> None:
    log = RelayLog(pipe[1], Clock())
    log_repeats(LINES_PER_ADDRESS + 3)
    log.close()
    assert (
        without_time(read_available(pipe[0]).decode().splitlines()[-1])
        == "repeated lines left out: kind=refused count=3"
    )


def test_plain_records_are_written_too(output: Output) -> None:
    LOGGER.warning("from %s", "a library")
    assert output.lines() == ["warning: from a library"]
