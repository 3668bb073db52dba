"""Text and JSON: every line can be parsed back into what was logged."""

from __future__ import annotations

import json
import logging
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.relay.log_format import FORMATS, format_json, format_text
from tests.support.relay_log import parse_text

NAMES = ("address", "reason", "seconds", "detail")
VALUES = st.one_of(
    st.text(st.characters(codec="utf-8")), st.integers(), st.sampled_from(['"', "\\", "a=b", "x: y=z"])
)


def make_record(
    event: str = "event", level: int = logging.INFO, error: Optional[BaseException] = None, **fields: Any
) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("offset.relay", level, "", 0, event, None, info)
    record.fields = fields
    return record


@given(st.dictionaries(st.sampled_from(NAMES), VALUES | st.just("\udcff")))
def test_text_gives_back_every_value(fields: dict[str, Any]) -> None:
    line = format_text(make_record(**fields), False)
    assert line.isascii() and line.count("\n") == 1 and line[:-1].isprintable()
    shown = {name: str(value) for name, value in fields.items()}
    assert parse_text(line[:-1]) == {"level": "info", "event": "event", **shown}


def test_every_line_may_have_more_fields() -> None:
    record, more = make_record(address="1.2.3.4:5"), {"host": "one"}
    assert format_text(record, False, more) == "event: address=1.2.3.4:5 host=one\n"
    assert list(json.loads(format_json(record, more=more)).items())[2:] == [
        *(("event", "event"), ("address", "1.2.3.4:5"), ("host", "one"))
    ]


@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_json_gives_back_every_value(fields: dict[str, Any]) -> None:
    line = format_json(make_record(**fields))
    assert line.isascii() and line.count("\n") == 1 and line[:-1].isprintable()
    values = json.loads(line)
    assert list(values)[:3] == ["time", "level", "event"]
    assert {name: values[name] for name in values if name in NAMES} == fields


def test_json_keeps_numbers_lists_and_counts() -> None:
    fields: dict[str, Any] = {
        "count": 3,
        "seconds": 0.12345,
        "address": ["a:1", "b:2"],
        "ended": {"idle": 1},
        "left_out": None,
    }
    values = json.loads(format_json(make_record(level=logging.WARNING, **fields)))
    assert values.pop("time").endswith("Z")
    assert values == {
        "level": "warning",
        "event": "event",
        "count": 3,
        "seconds": 0.123,
        "address": ["a:1", "b:2"],
        "ended": {"idle": 1},
    }


def test_text_joins_lists_and_counts() -> None:
    record = make_record(address=["a:1", "b:2"], ended={"idle": 1, "the peer closed": 20})
    assert format_text(record, False) == 'event: address=a:1,b:2 ended="idle: 1, the peer closed: 20"\n'


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("text", ["a\nerror: forged", "\x1b[2J", "\udcff", "ä", "\u2028x", "\r\n<0>panic"])
def test_events_and_tracebacks_forge_no_line(name: str, text: str) -> None:
    lines = FORMATS[name](make_record(text, logging.ERROR, traceback=f"one\n{text}"), False).split("\n")
    assert "".join(lines).isascii() and "".join(lines).isprintable()
    assert not lines.pop()
    if name == "json":
        assert len(lines) == 1
    else:
        assert lines[0].startswith("error: ")
        assert all(line.startswith("  ") for line in lines[1:])


def test_json_has_the_traceback_in_its_line() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        line = format_json(make_record(level=logging.ERROR, error=error))
    values = json.loads(line)
    assert values["level"] == "error"
    assert values["traceback"].startswith("Traceback (most recent call last):\n")
    assert values["traceback"].endswith("ValueError: first\nsecond")


def test_json_is_valid_for_names_that_are_not_utf_8() -> None:
    assert json.loads(format_json(make_record(file="caf\udce9")))["file"] == "caf\\udce9"
