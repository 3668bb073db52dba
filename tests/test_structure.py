"""The rooms of the package stay apart: imports point one way, and only some rooms touch the outside."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "offset_common"
SCRIPTS = ("strelay.py", "stmgr.py")
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400

_GROUND = {"constants", "errors", "__init__"}
_FILES = {"fields", "file_access", "file_kinds", "files", "identity", "tickets"}
_SHARED = {"address", "command_line", "option_values"} | _FILES | _GROUND
_ROOMS = _SHARED | {"wire", "channel"}

MAY_IMPORT = {
    "__init__": set[str](),
    "constants": set[str](),
    "errors": set[str](),
    "address": _GROUND,
    "command_line": _GROUND,
    "option_values": _GROUND,
    "requirements": set[str](),
    "file_access": set[str](),
    "file_kinds": set[str](),
    "files": _GROUND | {"file_access", "file_kinds"},
    "fields": _GROUND | {"file_kinds"},
    "identity": _GROUND | {"fields", "file_kinds", "files"},
    "tickets": _GROUND | {"address", "fields", "file_kinds", "files", "identity"},
    "wire": _GROUND,
    "channel": _GROUND | {"wire", "identity"},
    "relay": _ROOMS,
    "client": _ROOMS,
    "tools": _ROOMS | {"client"},
    "commands": _ROOMS | {"relay", "client", "tools"},
    "strelay.py": {"__init__", "requirements", "commands"},
    "stmgr.py": {"__init__", "requirements", "commands"},
}
"""For each room, and each file beside the rooms: which others it may import."""

IMPORTED_ONLY_BY = {
    "cryptography": {"identity", "channel", "requirements"},
    "docopt": {"command_line"},
    "selectors": {"relay", "client"},
    "socket": {"relay", "client", "tools", "requirements", "commands"},
    "threading": {"relay", "client", "tools"},
    "time": {"relay", "client", "tools"},
    "asyncio": set[str](),
}


def name_of(path: Path) -> str:
    """The path as it is shown."""
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    """The room that a file is in, or the file's own name."""
    if path.parent == ROOT:
        return path.name
    first = path.relative_to(PACKAGE).parts[0]
    return first[: -len(".py")] if first.endswith(".py") else first


def imports_of(path: Path) -> set[str]:
    """The full names of all modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} has a relative import"
            assert node.module is not None
            found.add(node.module)
            if node.module == PACKAGE.name:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_imported_by(path: Path) -> set[str]:
    """The rooms, other than its own, that a file imports from."""
    parts = [name.split(".") for name in imports_of(path)]
    known = {file.stem for file in PACKAGE.glob("*.py")} | {room.name for room in PACKAGE.iterdir()}
    rooms = {p[1] for p in parts if p[0] == PACKAGE.name and len(p) > 1 and p[1] in known}
    return rooms - {room_of(path)}


ALL = [*(ROOT / name for name in SCRIPTS), *FILES]


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_imports_point_one_way(path):
    assert rooms_imported_by(path) <= MAY_IMPORT[room_of(path)]


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_only_some_rooms_touch_the_outside(path):
    outside = {name.split(".")[0] for name in imports_of(path)} & set(IMPORTED_ONLY_BY)
    assert {name for name in outside if room_of(path) not in IMPORTED_ONLY_BY[name]} == set()


def test_nothing_imports_a_script():
    scripts = {Path(name).stem for name in SCRIPTS}
    assert [name_of(path) for path in ALL if imports_of(path) & scripts] == []


def test_the_table_of_what_may_be_imported_has_no_way_back():
    """Taking away, again and again, what imports nothing that is left, leaves nothing."""
    left = {room: set(others) for room, others in MAY_IMPORT.items()}
    while left:
        free = {room for room, others in left.items() if not others & set(left)}
        assert free, f"these import each other: {sorted(left)}"
        left = {room: others for room, others in left.items() if room not in free}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_has_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
