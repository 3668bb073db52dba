"""The requirements of the scripts: each missing part is reported in one line on stderr, with status 1."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stmgr
from offset_common import __version__, requirements
from offset_common.commands.manage_files import COMMANDS
from tests.commands import ROOT, Outcome, run_python

SCRIPTS = ["stmgr.py", "stforward.py", "strelay.py"]
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

# Code that removes a part of the machine before a script runs.
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


def run_without(part: str, script: str, *line: str) -> Outcome:
    """Run a script in a process that lacks a part."""
    return run_python("-c", PRELUDE + part + RUN, ROOT / script, *line, directory=ROOT)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("name", MISSING)
def test_a_missing_part_is_reported_in_one_line_with_status_1(name, script):
    status, out, err = run_without(MISSING[name], script, "--help")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"{script[:-3]}: the package ")
    assert name in err
    assert "python3 -m venv .venv && .venv/bin/pip install cryptography docopt-ng" in err
    assert "apt-get install python3-cryptography python3-docopt" in err
    assert ("FIPS mode" in err) is (name not in ("cryptography", "docopt"))


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_command_checks_the_requirements(line, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "docopt", None)
    with pytest.raises(SystemExit) as caught:
        stmgr.main(line)
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("stmgr: the package docopt is missing; ")


def test_the_python_of_make_run_is_suggested_if_there_is_one(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "docopt", None)
    monkeypatch.setattr(requirements, "__file__", str(tmp_path / "offset_common/requirements.py"))
    python = tmp_path / ".venv/bin/python"
    assert str(python) not in requirements.package_problem()
    python.parent.mkdir(parents=True)
    python.touch()
    assert f"; run this program with {python}, or install it " in requirements.package_problem()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert str(python) not in requirements.package_problem()


def test_a_broken_package_is_reported_with_its_error(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(SystemExit):
        stmgr.main(["--help"])
    line = capsys.readouterr().err
    assert line.startswith("stmgr: the package cryptography cannot be imported (import of cryptography.exc")


def test_broken_cryptography_is_not_blamed_on_fips(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    with pytest.raises(SystemExit):
        stmgr.main(["--help"])
    line = capsys.readouterr().err
    assert line.startswith("stmgr: the package cryptography cannot be imported (import of cryptography.haz")
    assert "FIPS" not in line


@pytest.mark.parametrize("name", ["cryptography", "docopt"])
@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("print 'for Python 2'", "Missing parentheses"),
        ("raise type('PanicException', (BaseException,), {})('Python API call\\nfailed')", "API call failed"),
    ],
    ids=["syntax", "panic"],
)
def test_a_package_of_another_python_is_reported_in_one_line(name, content, shown, tmp_path):
    (tmp_path / f"{name}.py").write_text(content)
    status, out, err = run_without(f"sys.path.insert(0, {str(tmp_path)!r})", "stmgr.py", "--help")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"stmgr: the package {name} cannot be imported (")
    assert shown in err


def test_a_warning_of_an_old_docopt_is_not_shown(tmp_path):
    # Python 3.12 prints such a warning about docopt 0.6.2 while there is no compiled file of it.
    (tmp_path / "docopt.py").write_text(
        "import warnings\nwarnings.warn('invalid escape', SyntaxWarning)\n"
        "class DocoptExit(SystemExit): pass\ndef docopt(*_): raise SystemExit('parsed')\n"
    )
    part = f"sys.path.insert(0, {str(tmp_path)!r})"
    assert run_without(part, "stmgr.py", "--version") == (1, "", "stmgr: parsed\n")


@pytest.mark.parametrize("version", ["0.6.3", "0.7.2", "0.8.1"])
def test_a_docopt_that_finds_no_options_is_reported(version, monkeypatch, capsys):
    monkeypatch.setattr("docopt.__version__", version)
    with pytest.raises(SystemExit) as caught:
        stmgr.main(["--help"])
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith(
        f"stmgr: the package docopt-ng {version} is too old for Offset; "
    )


def refusal_of_help(option: str, script: Path, directory: Path) -> str:
    """Run `script --help` with an option of Python; return the one line with which it refuses."""
    status, out, err = run_python(option, "-B", script, "--help", directory=directory)
    assert (status, out, err.count("\n")) == (1, "", 1)
    return err


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_without_help_pages_is_reported_in_one_line(script, tmp_path):
    refusal = refusal_of_help("-OO", ROOT / script, tmp_path)
    assert refusal.startswith(f"{script[:-3]}: with -OO or PYTHONOPTIMIZE=2, ")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_without_its_package_says_so(script, tmp_path):
    alone = shutil.copy(ROOT / script, tmp_path)
    # Without site-packages, in which the package may be installed.
    refusal = refusal_of_help("-S", alone, tmp_path)
    assert refusal.startswith(f"{script[:-3]}: the package offset_common is not found; leave {script} in")
    assert "make that readable for this user" in refusal  # with the umask 077, root copies it for root only


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_link_in_the_path_runs_the_script(script, tmp_path):
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    link = tmp_path / script[:-3]
    link.symlink_to(ROOT / script)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    shown = subprocess.run([link, "--version"], cwd="/", env=path, capture_output=True, text=True, timeout=90)
    assert (shown.stdout, shown.stderr) == (f"{link.name} {__version__}\n", "")


@pytest.mark.parametrize("folder", ["examples", "tools", "container", ".ci"])
def test_files_that_name_their_interpreter_can_be_executed(folder):
    programs = [
        path for path in (ROOT / folder).iterdir() if path.is_file() and path.read_bytes()[:2] == b"#!"
    ]
    assert programs
    assert [path.name for path in programs if not os.access(path, os.X_OK)] == []


@pytest.mark.skipif(not OLD_PYTHONS, reason="needs an old Python")
@pytest.mark.parametrize("python", OLD_PYTHONS, ids=lambda path: path.parents[1].name)
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("line", [["--help"], ["-V"], []], ids=["help", "version", "nothing"])
def test_an_old_python_is_reported(script, python, line, tmp_path):
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
    allowed = {"os", "signal", "sys", "warnings", "offset_common"}
    top = ast.parse((ROOT / name).read_text()).body
    top += [inner for node in top if isinstance(node, ast.Try) for inner in node.body]
    for node in top:
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= allowed
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert names in (["offset_common.requirements"], ["offset_common.relay.signals.Signals"])
