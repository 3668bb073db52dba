"""Print a usage file, for people or as comma-separated values."""

from __future__ import annotations

import csv
import io
import re
import sys
from typing import Optional

from offset_common.errors import UsageError
from offset_common.identity import encode_key
from offset_common.policy.access import AccessRules, load_access
from offset_common.policy.usage import Row, read_usage

HEADER = ("month", "key", "name", "received", "sent")
_ALL = "all"
_FORMULA = ("=", "+", "-", "@")  # a spreadsheet would treat a name that begins with one of these as a formula


def list_usage(path: str, month: Optional[str], access: Optional[str], *, as_csv: bool) -> None:
    """Print the rows of a usage file.

    Args:
        path: the usage file.
        month: only this one, as YYYY-MM; None for all.
        access: an access file with names, or None.
        as_csv: print comma-separated values.

    Raises:
        UsageError: the month is invalid.
        FileError: a file cannot be read.
    """
    if month is not None and not re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])", month):
        raise UsageError(f"--month must be a year and a month, such as 2026-11, not {month!r}")
    rules = AccessRules() if access is None else load_access(access)
    rows = [_cells(row, rules) for row in read_usage(path, month or "")]
    sys.stdout.write(_csv(rows) if as_csv else _table(rows))


def _cells(row: Row, rules: AccessRules) -> list[str]:
    key = encode_key(row.key) if row.key else _ALL
    name = rules.name_of(row.key) or ""
    return [row.month, key, name, str(row.volume.received), str(row.volume.sent)]


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for month, key, name, *numbers in rows:
        writer.writerow([month, key, f"'{name}" if name.startswith(_FORMULA) else name, *numbers])
    return text.getvalue()


def _table(rows: list[list[str]]) -> str:
    if not rows:
        return "nothing was used\n"
    cells = [list(HEADER), *([*row[:3], *(f"{int(number):,}" for number in row[3:])] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
    lines = []
    for row in cells:
        texts = [cell.ljust(width) for cell, width in zip(row[:3], widths)]
        numbers = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:])]
        lines.append("  ".join([*texts, *numbers]).rstrip() + "\n")
    return "".join(lines)
