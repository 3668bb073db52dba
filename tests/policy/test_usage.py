"""The usage file: sums by month and key, locked and foreign files, and the command that lists it."""

from __future__ import annotations

import calendar
import contextlib
import csv
import errno
import io
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import stmgr
from offset_common.errors import FileError
from offset_common.identity import encode_key
from offset_common.policy import usage
from offset_common.policy.usage import TOTAL, UsageBusyError, UsageFile, Volume, month_of, read_usage
from offset_common.policy.usage_writer import UsageWriter
from tests.commands import ROOT, run_python
from tests.support.process import PATIENCE

ALICE, BOB = b"\x01" * 32, b"\xff" * 32
MAY = "2026-05"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "usage.db")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "LOCK_TIMEOUT", 0.05)


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Lock the file, as another program may."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("moment", "month"),
    [((2026, 5, 31, 23, 59, 59), "2026-05"), ((2026, 6, 1, 0, 0, 0), "2026-06")],
)
def test_months_begin_at_midnight_utc(moment, month):
    assert month_of(calendar.timegm(moment)) == month


def test_volumes_add_up(path):
    file = UsageFile(path)
    assert file.load(MAY) == {}
    file.add(MAY, {TOTAL: Volume(10, 10), ALICE: Volume(10, 0)})
    file.add(MAY, {TOTAL: Volume(5, 5), BOB: Volume(0, 5)})
    file.add("2026-06", {TOTAL: Volume(1, 1)})
    assert UsageFile(path).load(MAY) == {TOTAL: Volume(15, 15), ALICE: Volume(10, 0), BOB: Volume(0, 5)}


def test_a_change_is_saved_whole_or_not_at_all(path):
    file = UsageFile(path)
    with pytest.raises(OverflowError):
        file.add(MAY, {ALICE: Volume(1, 1), BOB: Volume(2**70, 0)})
    assert file.load(MAY) == {}


def test_a_disk_full_at_the_creation_does_no_lasting_damage(path):
    least = f"""
from offset_common.policy.usage import UsageFile
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
UsageFile({path!r}).load("{MAY}")
"""
    assert "UsageBusyError" in run_python("-c", least, directory=ROOT).err
    assert UsageFile(path).load(MAY) == {}


def test_rows_are_in_order_of_use(path):
    UsageFile(path).add(MAY, {ALICE: Volume(1, 0), BOB: Volume(0, 2), TOTAL: Volume(1, 1)})
    assert [row.key for row in read_usage(path)] == [TOTAL, BOB, ALICE]
    assert read_usage(path, "2026-06") == []


def test_the_half_of_a_change_by_a_killed_relay_is_undone(path):
    UsageFile(path).add(MAY, {TOTAL: Volume(1, 1)})
    killed = f"""
import os, signal, sqlite3
database = sqlite3.connect({path!r}, isolation_level=None)
database.execute("PRAGMA cache_size = 1")  # writes to the file before the end of the change
database.execute("BEGIN")
for number in range(5000):
    database.execute("INSERT INTO usage VALUES ('{MAY}', ?, 1, 1)", [number.to_bytes(32, "big")])
os.kill(os.getpid(), signal.SIGKILL)
"""
    run_python("-c", killed, directory=ROOT)
    assert Path(f"{path}-journal").stat().st_size
    assert [row.volume for row in read_usage(path)] == [Volume(1, 1)]


def test_a_locked_file_is_busy(path):
    file = UsageFile(path)
    file.load(MAY)
    with locked(path):
        with pytest.raises(UsageBusyError, match="locked"):
            file.add(MAY, {ALICE: Volume(1, 1)})
        with pytest.raises(FileError, match="database is locked; try again later"):
            read_usage(path)
    assert file.load(MAY) == {}


@pytest.mark.parametrize("content", [b"some notes\n" * 100, bytes(range(256)) * 16])
def test_another_kind_of_file_is_refused_and_kept(content, tmp_path):
    path = tmp_path / "notes"
    path.write_bytes(content)
    for use in (lambda: UsageFile(str(path)).load(MAY), lambda: read_usage(str(path))):
        with pytest.raises(FileError, match="not a usage file"):
            use()
    assert path.read_bytes() == content


def test_an_empty_file_has_no_rows(path):
    Path(path).touch()
    assert read_usage(path) == []


def test_a_database_of_another_program_is_refused(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE others (x)")
    for use in (lambda: UsageFile(path).load(MAY), lambda: read_usage(path)):
        with pytest.raises(FileError, match="another program"):
            use()


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE usage",
        "ALTER TABLE usage RENAME COLUMN received TO bytes",
        f"INSERT INTO usage VALUES ('{MAY}', 'text', 1, 2)",
        f"INSERT INTO usage VALUES ('{MAY}', x'01', 1, 2)",
        "UPDATE usage SET received = 'many'",
        "UPDATE usage SET sent = 9e999",
    ],
)
def test_a_usage_file_with_other_content_is_refused(change, path):
    UsageFile(path).add(MAY, {ALICE: Volume(1, 2)})
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(change)
    for use in (lambda: UsageFile(path).load(MAY), lambda: read_usage(path)):
        with pytest.raises(FileError, match="of another version"):
            use()


@pytest.mark.parametrize("name", ["", "a\0b", "/dev/null", "x" * 5000])
def test_a_name_of_no_regular_file_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError):
        UsageFile(name).load(MAY)
    assert list(tmp_path.iterdir()) == []


def test_a_check_accepts_an_empty_file_and_one_in_use(path):
    Path(path).touch()
    UsageFile(path).check()
    assert Path(path).stat().st_size == 0
    UsageFile(path).load(MAY)
    with locked(path):
        UsageFile(path).check()


def test_a_check_refuses_another_table(path):
    UsageFile(path).load(MAY)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("ALTER TABLE usage RENAME COLUMN received TO bytes")
    with pytest.raises(FileError, match="of another version"):
        UsageFile(path).check()


@pytest.mark.parametrize("code", [errno.EACCES, errno.ELOOP, errno.ENOTDIR])
def test_a_directory_that_cannot_be_searched_is_refused(code, path, monkeypatch):
    def fail(self: Path) -> bool:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "is_dir", fail)
    with pytest.raises(FileError):
        UsageFile(path).check()


def test_a_missing_directory_is_reported(tmp_path):
    with pytest.raises(FileError, match=r"the directory .* is missing; create it first"):
        UsageFile(str(tmp_path / "no" / "usage.db")).load(MAY)


def test_a_tilde_in_the_name_of_the_file_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for use in (lambda path: UsageFile(path).check(), read_usage):
        with pytest.raises(FileError, match=r"^~/usage\.db: only a shell replaces ~"):
            use("~/usage.db")


class Reports:
    """The reports of a writer, which a test waits for."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, usage.Volumes]] = []
        self.reasons: list[str] = []
        self.event = threading.Event()

    def failed(self, reason: str) -> None:
        self.reasons.append(reason)
        self.event.set()

    def on_loaded(self, month: str, volumes: usage.Volumes) -> None:
        self.loaded.append((month, volumes))
        self.event.set()

    def wait(self) -> None:
        assert self.event.wait(PATIENCE)
        self.event.clear()


def test_what_a_locked_file_does_not_take_is_written_later(path):
    file, reports = UsageFile(path), Reports()
    file.load(MAY)
    writer = UsageWriter(file, reports.on_loaded, reports.failed)
    writer.start(MAY)
    with locked(path):
        writer.add(MAY, {ALICE: Volume(1, 2)})
        reports.wait()
    writer.add(MAY, {ALICE: Volume(10, 20)})
    assert writer.close()
    assert file.load(MAY) == {ALICE: Volume(11, 22)}
    assert reports.reasons == ["database is locked"]


def test_the_writer_survives_a_bug(path, monkeypatch):
    file, reports = UsageFile(path), Reports()
    writer = UsageWriter(file, reports.on_loaded, reports.failed)
    writer.start(MAY)
    with monkeypatch.context() as bug:
        bug.setattr(file, "add", None)
        writer.add(MAY, {ALICE: Volume(1, 2)})
        reports.wait()
    writer.add(MAY, {})
    assert writer.close()
    assert file.load(MAY) == {ALICE: Volume(1, 2)}


def test_a_file_locked_at_the_start_is_read_before_a_write(path):
    file, reports = UsageFile(path), Reports()
    file.add(MAY, {ALICE: Volume(100, 0)})
    writer = UsageWriter(file, reports.on_loaded, reports.failed)
    with locked(path):
        writer.start(None)
        writer.add(MAY, {ALICE: Volume(1, 0)})
        reports.wait()
    writer.add(MAY, {})
    reports.wait()
    assert writer.close()
    assert reports.loaded == [(MAY, {ALICE: Volume(100, 0)})]
    assert file.load(MAY) == {ALICE: Volume(101, 0)}


def run(capsys, *line: str) -> tuple[int, str, str]:
    status = stmgr.main(["relay-usage", *line])
    return (status, *capsys.readouterr())


def test_relay_usage_exports_csv(path, tmp_path, capsys):
    UsageFile(path).add(MAY, {TOTAL: Volume(1500, 1500), ALICE: Volume(1500, 0)})
    access = tmp_path / "access"
    access.write_text(f"listen {encode_key(ALICE)} =Alice, and friends\n")
    status, out, _ = run(capsys, path, "--csv", "--access", str(access))
    assert status == 0
    assert list(csv.reader(io.StringIO(out))) == [
        ["month", "key", "name", "received", "sent"],
        [MAY, "all", "", "1500", "1500"],
        [MAY, encode_key(ALICE), "'=Alice, and friends", "1500", "0"],
    ]


def test_relay_usage_lists_one_month(path, capsys):
    UsageFile(path).add(MAY, {TOTAL: Volume(1500, 1500)})
    UsageFile(path).add("2026-06", {TOTAL: Volume(7, 7)})
    assert run(capsys, path, "--month", MAY)[1].splitlines() == [
        "month    key  name  received   sent",
        "2026-05  all           1,500  1,500",
    ]
    assert run(capsys, path, "--month", "2027-01")[1] == "nothing was used\n"


@pytest.mark.parametrize("month", ["2026-13", "May", "2026-5", "2026-05-01"])
def test_relay_usage_refuses_other_months(month, path, capsys):
    UsageFile(path).load(MAY)
    status, _, err = run(capsys, path, "--month", month)
    assert status == 2
    assert err.startswith(f"stmgr: --month must be a year and a month, such as 2026-11, not {month!r}")


def test_relay_usage_names_a_missing_file(path, capsys):
    status, _, err = run(capsys, path)
    assert (status, err.count("\n")) == (1, 1)
    assert "there is no file with this name" in err
    assert not Path(path).exists()


def test_relative_name_without_a_current_directory_is_refused(tmp_path, monkeypatch):
    directory = tmp_path / "gone"
    directory.mkdir()
    monkeypatch.chdir(directory)
    directory.rmdir()
    for use in (UsageFile("usage.db").check, lambda: UsageFile("usage.db").load(MAY)):
        with pytest.raises(FileError, match="the current directory no longer exists"):
            use()
