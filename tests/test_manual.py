"""The man pages, completions and pages of the site, made from the help pages, have all of their content."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import PATIENCE, ROOT
from tools.help_markdown import command_line, configuration
from tools.help_pages import read_page, scripts

SCRIPTS = scripts()


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the man pages and completions."""
    directory = tmp_path_factory.mktemp("manual")
    subprocess.run(
        [sys.executable, "-m", "tools.manual", str(directory)], cwd=ROOT, check=True, timeout=4 * PATIENCE
    )
    return directory


def help_page(*words: str) -> str:
    """Return what a script prints."""
    command = [sys.executable, f"{words[0]}.py", *words[1:], "--help"]
    return subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE
    ).stdout


def options(page: str) -> set[str]:
    """Return the long options that a help page describes, by a rule of its own: they begin a line."""
    return set(re.findall(r"^  (?:-\w(?: \S+)?, )?(--[\w-]+)", page, re.MULTILINE))


@pytest.mark.parametrize("name", SCRIPTS)
def test_page_of_the_site_has_all_options(name: str) -> None:
    page = command_line(name, read_page(name))
    assert {option for option in options(help_page(name)) if option not in page} == set()


def test_configuration_page_has_all_options_of_files() -> None:
    page = configuration(read_page("strelay"))
    named = {f"--{name}" for name in re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)}
    assert named == options(help_page("strelay")) - {"--config", "--check", "--help", "--version"}


def complete(manual: Path, *words: str) -> list[str]:
    """Return what bash suggests for the last word."""
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    program = """
        source "$1"; shift
        compopt() { :; }  # it works only while a person types
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        "_$1" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", program, "bash", str(manual / "bash" / words[0]), *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return done.stdout.split()


@pytest.mark.parametrize("script", SCRIPTS)
def test_man_page_has_every_option(manual: Path, script: str) -> None:
    text = (manual / "man" / f"{script}.1").read_text("utf-8").replace("\\-", "-")
    described = set(re.findall(r"\\fB(--[\w-]+)\\fR", text))
    assert described >= options(help_page(script))
    if script == "stmgr":
        assert described >= options(help_page(script, "relay-check")) | options(
            help_page(script, "node-entry")
        )


@pytest.mark.parametrize("script", SCRIPTS)
def test_man_page_is_valid(manual: Path, script: str) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("needs groff")
    done = subprocess.run(
        [groff, "-man", "-ww", "-z", str(manual / "man" / f"{script}.1")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_commands_and_options(manual: Path) -> None:
    assert complete(manual, "stmgr", "relay-") == [
        "relay-ticket",
        "relay-check",
        "relay-status",
        "relay-usage",
    ]
    assert complete(manual, "stmgr", "help", "gen") == ["gen-ident"]
    assert complete(manual, "stmgr", "gen-ident", "--p") == ["--pkcs8"]
    assert complete(manual, "strelay", "--per-") == ["--per-address", "--per-key"]
    assert complete(manual, "strelay", "--laddr", "") == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_completes_every_option(manual: Path, script: str) -> None:
    assert set(complete(manual, script, "--")) == options(help_page(script))


@pytest.mark.parametrize("script", SCRIPTS)
def test_zsh_accepts_the_completion(manual: Path, script: str) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("needs zsh")
    path = manual / "zsh" / f"_{script}"
    subprocess.run([zsh, "-n", str(path)], check=True, timeout=PATIENCE)
    text = path.read_text("utf-8")
    assert {name for name in options(help_page(script)) if name not in text} == set()
