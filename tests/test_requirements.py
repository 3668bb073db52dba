"""What the scripts need: each missing part is one line on stderr and exit status 1."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from offset_common import requirements
from offset_common.commands.manage_files import COMMANDS
from tests.commands import ROOT

SCRIPTS = ["stmgr.py", "strelay.py"]
LINES = [["--help"], ["-V"], [], ["help"], *([name, "--help"] for name in COMMANDS), ["gen-ident", "-o", "x"]]
READ_BY_OLD_PYTHONS = [
    *SCRIPTS,
    "offset_common/__init__.py",
    "offset_common/requirements.py",
    "offset_common/relay/signals.py",
]
OLD_PYTHONS = sorted(
    path
    for pattern in ("2.7*", "3.[0-8].*")
    for path in Path.home().glob(f".pyenv/versions/{pattern}/bin/python")
)

# What replaces a part of the machine before a script runs.
MISSING = {
    "cryptography": "sys.modules['cryptography'] = None",
    "docopt": "sys.modules['docopt'] = None",
    "Ed25519": "refuse('asymmetric.ed25519', 'Ed25519PrivateKey', 'generate')",
    "X25519": "refuse('asymmetric.x25519', 'X25519PrivateKey', 'generate')",
    "ChaCha20-Poly1305": "refuse('ciphers.aead', 'ChaCha20Poly1305')",
    "SHA-512/256": "refuse('kdf.hkdf', 'HKDF')",
}
PRELUDE = """
import runpy, sys
def refuse(module, name, method=None):
    import importlib
    from cryptography.exceptions import UnsupportedAlgorithm
    def fail(*_):
        raise UnsupportedAlgorithm("not supported by\\nthis version of OpenSSL")
    module = importlib.import_module("cryptography.hazmat.primitives." + module)
    if method:
        setattr(module, name, type(name, (), {method: staticmethod(fail)}))
    else:
        setattr(module, name, fail)
"""
RUN = "\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"


def run_without(part: str, script: str, *line: str) -> tuple[int, str, str]:
    """Run a script in a process that lacks a part."""
    code = PRELUDE + part + RUN
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / script), *line],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("name", MISSING)
def test_a_missing_part_is_one_line_and_status_1(name, script):
    status, out, err = run_without(MISSING[name], script, "--help")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"{script[:-3]}: the package ")
    assert name in err
    assert "python3 -m venv .venv && .venv/bin/pip install cryptography docopt-ng" in err
    assert "apt-get install python3-cryptography python3-docopt" in err
    assert ("FIPS mode" in err) is (name not in ("cryptography", "docopt"))


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_command_checks_the_requirements(line, monkeypatch, capsys):
    import stmgr

    monkeypatch.setitem(sys.modules, "docopt", None)
    with pytest.raises(SystemExit) as caught:
        stmgr.main(line)
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("stmgr: the package docopt is missing; install it ")


def test_a_broken_package_is_reported_with_its_error(monkeypatch, capsys):
    import stmgr

    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(SystemExit):
        stmgr.main(["--help"])
    line = capsys.readouterr().err
    assert line.startswith("stmgr: the package cryptography cannot be imported (import of cryptography.exc")


def test_nothing_is_reported_on_this_machine():
    assert requirements.python_problem() == ""
    assert requirements.package_problem() == ""
    assert requirements.algorithm_problem() == ""
    assert requirements.system_problem() == ""


@pytest.mark.skipif(not OLD_PYTHONS, reason="needs an old Python")
@pytest.mark.parametrize("python", OLD_PYTHONS, ids=lambda path: path.parents[1].name)
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("line", [["--help"], ["-V"], []], ids=["help", "version", "nothing"])
def test_an_old_python_is_named(script, python, line, tmp_path):
    done = subprocess.run(
        [python, "-B", ROOT / script, *line], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    assert re.match(
        rb"st\w+: this is Python [\d.]+, too old for Offset; use Python 3\.9 or newer", done.stderr
    )


# Where no old Python is installed, this still finds the usual mistakes.
NEW_SYNTAX = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.AsyncFunctionDef, ast.Nonlocal, ast.YieldFrom)


@pytest.mark.parametrize("name", READ_BY_OLD_PYTHONS)
def test_files_that_old_pythons_read_have_old_syntax(name):
    source = (ROOT / name).read_text()
    assert source.isascii()
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, NEW_SYNTAX), f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            assert node.returns is None
            assert [argument for argument in arguments if argument.annotation] == []
            assert node.args.kwonlyargs == []
        if isinstance(node, ast.ImportFrom):
            assert node.module != "__future__"
    assert re.findall(r"\b\d+_\d+\b", source) == []


@pytest.mark.parametrize("name", READ_BY_OLD_PYTHONS)
def test_only_checked_modules_are_imported_at_the_top(name):
    allowed = {"os", "signal", "sys", "offset_common"}
    for node in ast.parse((ROOT / name).read_text()).body:
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= allowed
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert names in (["offset_common.requirements"], ["offset_common.relay.signals.Signals"])
