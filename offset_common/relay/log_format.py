"""The formats of log lines: text for people, JSON for programs.

    2026-11-27T13:28:36.123Z warning: event: key=value key="value with spaces"
    {"time": "2026-11-27T13:28:36.123Z", "level": "warning", "event": "event", "key": "value"}

A value in text is either printable ASCII without spaces or quotes, or a JSON string. JSON escapes all but
printable ASCII. So no value can forge a line or a field in either format.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any, Callable

Format = Callable[..., str]
"""Returns the lines of a record of `log_event`, given whether to begin with the time. The argument `more` has
fields to append to those of the record."""

PRIORITIES = {logging.WARNING: 4, logging.ERROR: 3}
INFORMATIONAL = 6

_to_json = json.JSONEncoder(default=str).encode
_UNQUOTED = re.compile(r"[!#-~]+")  # printable ASCII without spaces or double quotes
_NOT_PRINTABLE = re.compile(r"[^ -~]")


def format_time(seconds: float) -> str:
    """Return a time since 1970 in the form of RFC 3339, in UTC: 2026-11-27T13:28:36.123Z."""
    milliseconds = int(seconds * 1000)
    day_and_time = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{day_and_time}.{milliseconds % 1000:03}Z"


def format_text(record: logging.LogRecord, with_time: bool = True, more: Mapping[str, object] = {}) -> str:
    """Return `time level: event: key=value`, followed by the indented lines of a traceback."""
    text = f"{format_time(record.created)} " if with_time else ""
    if record.levelno > logging.INFO:
        text += f"{record.levelname.lower()}: "
    text += _escape(record.getMessage())
    fields = _fields(record)
    traceback = fields.pop("traceback", "")
    separator = ": "
    for name, value in {**fields, **more}.items():
        shown = value_text(value)
        text += f"{separator}{name}={shown if _UNQUOTED.fullmatch(shown) else json.dumps(shown)}"
        separator = " "
    return "\n  ".join([text, *map(_escape, traceback.splitlines())]) + "\n"


def format_json(record: logging.LogRecord, with_time: bool = True, more: Mapping[str, object] = {}) -> str:
    """Return the record as a JSON object on one line; it always has its time."""
    start = {"time": format_time(record.created), "level": record.levelname.lower()}
    values = {**start, "event": record.getMessage(), **_fields(record), **more}
    # Many programs reject lone surrogates, which file names that are not UTF-8 contain.
    valid = {
        name: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
        for name, value in values.items()
    }
    return _to_json(valid) + "\n"


FORMATS: dict[str, Format] = {"text": format_text, "json": format_json}
"""The formats, by their names in --log-format."""


def add_priority(lines: str, level: int) -> str:
    """Return lines with their priority before each, such as `<4>`.

    Source: sd-daemon(3).
    """
    prefix = f"<{PRIORITIES.get(level, INFORMATIONAL)}>"
    return "".join(prefix + line for line in lines.splitlines(keepends=True))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that have a value, and the traceback as the last one."""
    fields = {name: value for name, value in getattr(record, "fields", {}).items() if value is not None}
    if record.exc_info:
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in fields.items()}


def value_text(value: object) -> str:
    """Return a value as the text format shows it, before it is quoted."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count}" for name, count in value.items())
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _escape(text: str) -> str:
    return _NOT_PRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
