"""The calls of `log_event` in the package, and the tables of docs/logs.md that describe them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple, Optional

from tests.documents import ROOT

LOGS = (ROOT / "docs/logs.md").read_text("utf-8")
OF_EVERY_LINE = "host"  # of a host of a fleet
NO_FIELDS = {"collapse", "collapse_by", "level"}


class Event(NamedTuple):
    """An event of the log."""

    name: str
    level: str
    fields: frozenset[str]


def logged_events() -> set[Event]:
    """Return the events that the source logs, with all their fields, wherever it logs them."""
    fields: dict[tuple[str, str], set[str]] = {}
    for path in (ROOT / "offset_common").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "log_event":
                for name in _names(node.args[0]):
                    fields.setdefault((name, _level(node)), set()).update(_fields(node))
    return {Event(name, level, frozenset(found)) for (name, level), found in fields.items()}


def documented_events() -> set[Event]:
    """Return the events in the table of docs/logs.md."""
    return {
        Event(event.strip("`"), level, frozenset(re.findall(r"`(\w+)`", fields)))
        for event, level, fields, _ in table("event")
    }


def table(first_title: str) -> list[list[str]]:
    """Return the cells of the table in docs/logs.md whose first column has this title."""
    (rows,) = re.findall(rf"^\| {first_title} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", LOGS, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]


def _names(event: ast.expr) -> Iterator[str]:
    choices = [event.body, event.orelse] if isinstance(event, ast.IfExp) else [event]
    for each in choices:
        assert isinstance(each, ast.Constant), f"an event that is not a constant: {ast.unparse(each)}"
        yield str(each.value)


def _level(call: ast.Call) -> str:
    return ast.unparse(call.args[1]).rpartition(".")[2].lower() if len(call.args) > 1 else "info"


def _fields(call: ast.Call) -> set[str]:
    names = {keyword.arg for keyword in call.keywords}
    if None in names:
        assert [ast.unparse(keyword.value) for keyword in call.keywords] == ["describe(self)"]
        names = _keys_returned("relay/state_line.py", "describe")
    return {"traceback" if name == "exc_info" else str(name) for name in names} - NO_FIELDS


def _keys_returned(file: str, function: str) -> set[Optional[str]]:
    tree = ast.parse((ROOT / "offset_common" / file).read_text("utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    (values,) = [node.value for node in ast.walk(found) if isinstance(node, ast.Return)]
    assert isinstance(values, ast.Dict)
    return {str(key.value) for key in values.keys if isinstance(key, ast.Constant)}
