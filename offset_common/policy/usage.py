"""The usage file: bytes by calendar month (UTC) and key, in an SQLite database.

Every few seconds, a relay adds what it counted. It only adds, so several relays may share a file. The row of
all keys together has an empty key.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from offset_common.constants import PUBLIC_KEY_SIZE
from offset_common.errors import FileError, missing_sentence, os_error_sentence

TOTAL = b""
"""The key of the row for all tunnels together."""

LOCK_TIMEOUT = 2.0  # seconds that a read or write waits for another process
_APPLICATION_ID = 0x4F666672  # "Offr"; marks the file as a usage file
_OTHER_CONTENT = (
    "not a usage file, a damaged one, or of another version; choose another file, or restore a copy"
)
_ADVICE = {
    "unable to open database file": "check the permissions of the file and of its directory",
    "attempt to write a readonly database": "check the permissions of the file and of its directory",
}
_OTHER_SCHEMA = ("no such ", "table usage has ", "cannot modify ", "Could not decode ")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    month TEXT NOT NULL,        -- YYYY-MM, in UTC
    key BLOB NOT NULL,          -- 32 bytes; empty for all keys together
    received INTEGER NOT NULL,  -- bytes that the relay received from the key
    sent INTEGER NOT NULL,      -- bytes that it sent to the key
    PRIMARY KEY (month, key)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?)
ON CONFLICT (month, key) DO UPDATE SET received = received + excluded.received, sent = sent + excluded.sent
"""


class Volume(NamedTuple):
    """Bytes in both directions, as the relay sees them."""

    received: int = 0
    sent: int = 0

    @property
    def total(self) -> int:
        """The bytes in both directions."""
        return self.received + self.sent

    def plus(self, other: Volume) -> Volume:
        """Return the sum of two volumes."""
        return Volume(self.received + other.received, self.sent + other.sent)


class Row(NamedTuple):
    """A row of the file: what one key, or TOTAL, used in a month."""

    month: str
    key: bytes
    volume: Volume


Volumes = Mapping[bytes, Volume]


class UsageBusyError(Exception):
    """The file temporarily cannot be read or written: it is locked, or the disk is full or fails."""


def month_of(seconds: float) -> str:
    """Return the calendar month of a time in UTC, as YYYY-MM.

    Args:
        seconds: the time, as time.time returns it.
    """
    moment = time.gmtime(seconds)
    return f"{moment.tm_year:04}-{moment.tm_mon:02}"


class UsageFile:
    """A usage file that a relay adds to.

    Args:
        path: the file; it is created if it does not exist.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def load(self, month: str) -> dict[bytes, Volume]:
        """Return what each key used in a month; create the file if necessary.

        Raises:
            FileError: the file is of another kind or cannot be written, or its directory does not exist.
            UsageBusyError: the file temporarily cannot be read or created.
        """
        with self._open() as database:
            _check_writable(database)
            query = "SELECT month, key, received, sent FROM usage WHERE month = ?"
            return {row.key: row.volume for row in _rows(self._path, database.execute(query, [month]))}

    def check(self) -> None:
        """Check that the file can be read and written, or created; do not create it.

        Raises:
            FileError: it cannot, or it is another kind of file.
        """
        path = Path(self._path)
        with contextlib.suppress(UsageBusyError), _errors_of(self._path):
            if path.exists():
                with contextlib.closing(_connect(path, "rw")) as database:
                    if not _is_empty(database):
                        _check_kind(self._path, database)
                        query = "SELECT month, key, received, sent FROM usage LIMIT 1"
                        list(_rows(self._path, database.execute(query)))
                    _check_writable(database)
            elif not os.access(path.absolute().parent, os.W_OK | os.X_OK):
                raise FileError(self._path, "its directory is not writable; choose another one, or chmod it")

    def add(self, month: str, volumes: Volumes) -> None:
        """Add what keys used since the last call: all of it or nothing.

        Raises:
            FileError: the file is of another kind, or its directory no longer exists.
            UsageBusyError: the file temporarily cannot be written.
        """
        with self._open() as database, database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(_ADD, [(month, key, *volume) for key, volume in volumes.items()])

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # Reopened each time, so that a moved or replaced file is noticed and no lock is left.
        with _errors_of(self._path), contextlib.closing(_connect(Path(self._path), "rwc")) as database:
            if _is_empty(database):
                _create(database)
            _check_kind(self._path, database)
            yield database


def read_usage(path: str, month: str = "") -> list[Row]:
    """Return the rows of a usage file, or of one month: TOTAL first, then the keys with the most bytes.

    Raises:
        FileError: the file is missing, locked, or of another kind.
    """
    if not Path(path).is_file():
        reason = "there is no file with this name; give the one of strelay.py --usage"
        raise FileError(path, missing_sentence(path, reason))
    order = "ORDER BY month, key != x'', received + sent DESC, key"
    try:
        # Not "ro": after a relay was killed while it wrote, SQLite must first undo half of a change.
        with _errors_of(path), contextlib.closing(_connect(Path(path), "rw")) as database:
            if _is_empty(database):  # the disk was full when a relay made the file
                return []
            _check_kind(path, database)
            query = f"SELECT month, key, received, sent FROM usage WHERE ? IN ('', month) {order}"
            return _rows(path, database.execute(query, [month]))
    except UsageBusyError as error:
        raise FileError(path, f"{error}; try again later") from None


def _rows(path: str, found: Iterable[tuple[object, ...]]) -> list[Row]:
    """Return rows after checking the types of the schema, which SQLite does not enforce."""
    rows = []
    for month, key, received, sent in found:
        if not (isinstance(month, str) and isinstance(key, bytes) and len(key) in (0, PUBLIC_KEY_SIZE)):
            raise FileError(path, _OTHER_CONTENT)
        if not (isinstance(received, int) and isinstance(sent, int)):
            raise FileError(path, _OTHER_CONTENT)
        rows.append(Row(month, key, Volume(received, sent)))
    return rows


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, timeout=LOCK_TIMEOUT, isolation_level=None, uri=True)


def _is_empty(database: sqlite3.Connection) -> bool:
    tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return not tables and not database.execute("PRAGMA application_id").fetchone()[0]


def _create(database: sqlite3.Connection) -> None:
    # Both or neither: a file with only the first is taken for a damaged one.
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        database.execute(_SCHEMA)


def _check_writable(database: sqlite3.Connection) -> None:
    """Write a setting and roll back, because only a write shows whether the file is writable."""
    database.execute("BEGIN IMMEDIATE")
    database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    database.execute("ROLLBACK")


def _check_kind(path: str, database: sqlite3.Connection) -> None:
    if database.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise FileError(path, "this is a database of another program; choose another file")


@contextlib.contextmanager
def _errors_of(path: str) -> Iterator[None]:
    if not path or "\0" in path:
        raise FileError(path, "this is not a file name; give the name of a file")
    try:
        directory = Path(path).absolute().parent
        if not directory.is_dir():
            reason = f"the directory {str(directory)!r} is missing; create it first"
            raise FileError(path, missing_sentence(path, reason))
        if Path(path).is_dir():
            raise FileError(path, "this is a directory; give the name of a file in it")
        if Path(path).exists() and not Path(path).is_file():
            raise FileError(path, "this is not a regular file; choose another name")
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if text in _ADVICE:
            raise FileError(path, f"{text}; {_ADVICE[text]}") from None
        if text.startswith(_OTHER_SCHEMA):
            raise FileError(path, f"{_OTHER_CONTENT} ({text})") from None
        raise UsageBusyError(text) from None
    except sqlite3.DatabaseError as error:
        raise FileError(path, f"{_OTHER_CONTENT} ({error})") from None
    except FileNotFoundError:  # from Path.absolute
        reason = "the current directory no longer exists; change to another one, or give the whole path"
        raise FileError(path, reason) from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EACCES, errno.ELOOP, errno.ENOTDIR):
            raise FileError(path, os_error_sentence(error)) from None
        raise UsageBusyError(os_error_sentence(error)) from None
