"""The command line of strelay: help, version, and the messages about wrong values."""

from __future__ import annotations

import re

import pytest

import strelay
from offset_common import __version__
from tests.commands import FILES, ROOT, run_python, run_script, run_strelay

IDENTITY = ["-i", str(FILES / "relay.ident")]


def fail(*line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run strelay with arguments that it refuses; return the exit status and the first line on stderr."""
    status, out, err = run_strelay(capsys, *line)
    assert out == ""
    return status, err.splitlines()[0]


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version_has_the_name_of_the_program(option, capsys):
    assert run_strelay(capsys, option) == (0, f"strelay {__version__}\n", "")


@pytest.mark.parametrize("name", ["strelay", "strelay.py", "my-relay"])
def test_the_help_has_the_name_that_started_it(name, tmp_path):
    (tmp_path / name).symlink_to(ROOT / "strelay.py")
    page = run_python(tmp_path / name, "--help").out
    assert f"\nUsage:\n  {name} --idfile FILE" in page
    assert re.findall(r"\bstmgr\S* gen-ident", page) == [
        "stmgr.py gen-ident" if name == "strelay.py" else "stmgr gen-ident"
    ]
    assert "strelay.py" not in page.replace(name, "")


@pytest.mark.parametrize(
    ("line", "limits", "hint"),
    [
        ("--buffers 1g", "number of MiB from 1 to 1048576", "; for 1g write 1024"),
        ("--socket-buffer 1m", "number of KiB from 0 to 1048576", "; for 1m write 1024"),
        ("--drain 5s", "number of seconds from 0 to 86400", "; for 5s write 5"),
        ("--stall 2m", "number of seconds from 1 to 86400", "; for 2m write 120"),
        ("--connections 10k", "whole number from 1 to 10000000", "; for 10k write 10000"),
        ("--workers 0", "whole number from 1 to 256", ""),
        ("--ipv6-prefix 129", "whole number from 1 to 128", ""),
    ],
)
def test_a_wrong_value_is_explained(line, limits, hint, capsys):
    option, value = line.split()
    status, sentence = fail(*IDENTITY, "-l", "h:1", option, value, capsys=capsys)
    assert (status, sentence) == (2, f"strelay: {option} must be a {limits}, not '{value}'{hint}")


VALUED = re.findall(r"^  (?:-\w [A-Z]+, )?(--[\w-]+) [\[A-Z]", strelay.__doc__ or "", re.MULTILINE)
FILES_GIVEN = ("--idfile", "--config", "--access", "--usage")  # an error about a file has its name
FLEET = {"--fleet": "valkey://h", "--fleet-laddr": "127.0.0.1:0", "--fleet-address": "127.0.0.1:1"}


def test_every_option_with_a_value_is_found() -> None:
    assert {"--idfile", "--status", "--tunnels", "--usage"} <= {*VALUED}
    assert "--check" not in VALUED


def check(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Check a command line with a value that is refused, and what it needs besides; return as `fail` does."""
    given = {"--laddr": "127.0.0.1:0"} | (FLEET if option.startswith("--fleet") else {}) | {option: value}
    words = [word for pair in given.items() for word in pair]
    return fail(*IDENTITY, *words, "--check", capsys=capsys)


@pytest.mark.parametrize("option", sorted({*VALUED} - {*FILES_GIVEN}))
def test_an_error_has_the_name_of_its_option(option, capsys):
    status, sentence = check(option, "?!", capsys)
    assert status == 2
    assert re.match(f"strelay: {option}(:| must be| has) ", sentence)


@pytest.mark.parametrize("option", ["--laddr", "--status", "--fleet-laddr", "--fleet-address"])
def test_a_check_resolves_names(option, capsys):
    status, sentence = check(option, "nobody.invalid:1", capsys)
    assert status == 1
    assert sentence.startswith(f"strelay: {option}: the name nobody.invalid does not resolve (")


@pytest.mark.parametrize("laddr", ["127.0.0.1:9090", "0.0.0.0:9090", "[::]:9090"])
def test_status_needs_a_port_of_its_own(laddr, capsys):
    status, sentence = fail(*IDENTITY, "-l", laddr, "--status", "9090", "--check", capsys=capsys)
    assert (status, sentence) == (
        2,
        "strelay: --status: the port 9090 is that of --laddr; choose another port",
    )


def test_the_program_runs_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_script("strelay.py", "-V") == (0, f"strelay {__version__}\n", "")
