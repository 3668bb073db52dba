"""The structure of the package: imports point one way without cycles, and all state has one owner."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "offset_common"
SCRIPTS = [ROOT / "strelay.py", ROOT / "stmgr.py", ROOT / "stforward.py"]
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400

IMPORTED_ONLY_BY = {
    "cryptography": {"identity", "channel", "requirements", "illustrate"},
    "docopt": {"command_line"},
    "selectors": {"relay", "client", "status", "forward"},
    "socket": {"relay", "client", "tools", "requirements", "commands", "status", "service", "forward"}
    | {"illustrate", "fleet"},
    "threading": {"threads", "relay", "client", "tools", "status", "policy", "forward", "fleet"},
    "time": {"relay", "client", "tools", "status", "policy", "service", "forward", "illustrate"},
    "http": {"status"},
    "prometheus_client": {"status"},
    "asyncio": set[str](),
}
"""For some modules: the folders and files of the package that may import them."""

PUBLIC_IN_LIBRARIES = {"_replace", "_asdict", "_fields", "_make", "_exit"}
"""Private only by their names: of named tuples, and of `os`."""

ASSIGNED_IN_LIBRARIES = {"propagate", "excepthook", "unraisablehook", "showwarning"}
"""Attributes of modules and objects of the standard library that are made to be assigned."""


def name_of(path: Path) -> str:
    """Return the path as it is shown."""
    return str(path.relative_to(ROOT))


def part_of(path: Path) -> str:
    """Return the folder of the package that a file is in, or the file's own name."""
    return path.relative_to(PACKAGE).parts[0].replace(".py", "")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports_in(tree: ast.AST) -> set[str]:
    """Return the full names of all modules that are imported, anywhere in a file."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            assert node.module is not None
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_follow_the_layers_without_cycles() -> None:
    """The contracts are in pyproject.toml; imports under TYPE_CHECKING count."""
    pytest.importorskip("importlinter", reason="import-linter needs Python 3.10")
    program = "import importlinter.cli; raise SystemExit(importlinter.cli.lint_imports(no_cache=True))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
    assert " 0 broken" in result.stdout


def test_only_some_parts_touch_the_outside() -> None:
    for path in FILES:
        outside = {name.split(".")[0] for name in imports_in(parse(path))} & set(IMPORTED_ONLY_BY)
        assert {name for name in outside if part_of(path) not in IMPORTED_ONLY_BY[name]} == set(), path


def test_scripts_import_only_their_own_parts() -> None:
    relay, manager, forward = (
        {name.split(".")[1] for name in imports_in(parse(path)) if name.startswith("offset_common.")}
        for path in SCRIPTS
    )
    assert not relay & {"client", "tools"}
    assert not manager & {"relay", "channel", "wire"}
    assert not forward & {"relay", "channel", "wire"}
    names = {path.stem for path in SCRIPTS}
    assert [name_of(path) for path in FILES if imports_in(parse(path)) & names] == []


def test_names_of_tests_are_short() -> None:
    names = [
        node.name
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name) >= 60] == []


# Ownership: an attribute is assigned, and a private one is used, only where its class is.


def is_own(node: ast.Attribute) -> bool:
    """Return whether the attribute is one of self or cls."""
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def names_defined_in(tree: ast.Module) -> set[str]:
    """Return the attributes, methods and functions that the classes and the module itself define."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node):
            names.add(node.attr)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__slots__" for target in node.targets
        ):
            names |= {str(each.value) for each in ast.walk(node.value) if isinstance(each, ast.Constant)}
    return names


def foreign_attributes(tree: ast.Module) -> Iterator[ast.Attribute]:
    """Yield the uses of attributes, not of self, whose names the file does not define."""
    names = names_defined_in(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not is_own(node) and node.attr not in names:
            yield node


def test_attributes_are_assigned_where_their_class_is() -> None:
    assigned = [
        f"{name_of(path)}, line {node.lineno}: {ast.unparse(node)}"
        for path in (*SCRIPTS, *FILES)
        for node in foreign_attributes(parse(path))
        if isinstance(node.ctx, (ast.Store, ast.Del))
        and not node.attr.startswith("__")
        and node.attr not in ASSIGNED_IN_LIBRARIES
    ]
    assert assigned == []


def test_private_attributes_are_used_where_their_class_is() -> None:
    used = [
        f"{name_of(path)}, line {node.lineno}: {ast.unparse(node)}"
        for path in (*SCRIPTS, *FILES)
        for node in foreign_attributes(parse(path))
        if node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr not in PUBLIC_IN_LIBRARIES
    ]
    assert used == []


def test_only_the_buffer_pool_changes_its_counters() -> None:
    """`count` is how an account reports to its pool; all others call `Account.add`."""
    callers = [
        f"{name_of(path)}, line {node.lineno}"
        for path in FILES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute)
        and node.attr == "count"
        and ast.unparse(node.value).split(".")[-1].lstrip("_") in ("pool", "buffers")
    ]
    assert {caller.split(",")[0] for caller in callers} == {"offset_common/relay/buffer_pool.py"}


def test_no_file_is_too_long() -> None:
    assert [name_of(each) for each in FILES if len(each.read_text("utf-8").splitlines()) > MAX_LINES] == []
