"""Mistakes on the command line of a host: one line each, before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import ROOT, run_python, run_script
from tests.support.process import LoggedProcess
from tests.support.relay_process import command, write_identity

FLEET = ("--fleet", "valkey://127.0.0.1:1/0")
LISTEN = ("--fleet-laddr", "127.0.0.1:0")


def fail(directory: Path, *options: str) -> tuple[int, str]:
    """Run a relay that must not start; return its status and error."""
    done = run_script("strelay.py", "-i", write_identity(directory), "-l", "127.0.0.1:0", *options)
    assert done.err.count("\n") == 1, done.err
    return done.status, done.err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (FLEET, "--fleet needs --fleet-laddr IP:PORT"),
        (LISTEN, "--fleet-laddr needs --fleet URL"),
        (("--fleet-name", "a"), "--fleet-name needs --fleet URL"),
        ((*FLEET, "--fleet-laddr", "0.0.0.0:0"), "add --fleet-address HOST:PORT"),
        ((*FLEET, *LISTEN, "--fleet-name", "a b"), "--fleet-name must be 1 to 64 letters"),
        ((*FLEET, *LISTEN, "--fleet-name", "x" * 65), "--fleet-name must be 1 to 64 letters"),
        ((*FLEET, *LISTEN, "--fleet-address", "h:0"), "has port 0"),
        (("--fleet", "ftp://h", *LISTEN), "--fleet: it does not begin with valkey://"),
        (("--fleet", "valkey://u:secret@h", *LISTEN), "give --fleet @FILE"),
    ],
)
def test_mistake_is_reported_in_one_line_with_status_2(
    tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    status, error = fail(tmp_path, *options)
    assert status == 2 and sentence in error and "secret" not in error


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--fleet", "@/nowhere/file", *LISTEN), "/nowhere/file"),
        (
            (*FLEET, "--fleet-laddr", "192.0.2.1:0"),
            "--fleet-laddr: cannot listen on 192.0.2.1:0: this host",
        ),
        (
            (*FLEET, *LISTEN, "--fleet-address", "nobody.invalid:1"),
            "--fleet-address: the name nobody.invalid ",
        ),
    ],
)
def test_problem_is_reported_in_one_line_with_status_1(
    tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    status, error = fail(tmp_path, *options)
    assert status == 1 and sentence in error


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["start", "check"])
@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ("ca=nowhere", "nowhere: there is no file with this name"),
        ("ca=text", "text: this has no certificates in PEM format"),
        ("cert=text", "text: this certificate cannot be used with its key"),
        ("cert=text&key=nowhere", "nowhere: there is no file with this name"),
    ],
)
def test_problem_of_a_tls_file_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: str, sentence: str, check: tuple[str, ...]
) -> None:
    (tmp_path / "text").write_text("no certificate")
    monkeypatch.chdir(tmp_path)
    location = f"valkeys://127.0.0.1:1/0?{parameters}"
    status, error = fail(tmp_path, "--fleet", location, *LISTEN, *check)
    assert status == 1 and sentence in error


@pytest.mark.parametrize("secret", ["", ":secret@"])
def test_file_with_a_password_must_be_private(tmp_path: Path, secret: str) -> None:
    path = tmp_path / "fleet"
    path.write_text(f"valkey://{secret}127.0.0.1:1/0\n")
    path.chmod(0o644)
    relay = LoggedProcess(command(write_identity(tmp_path), "127.0.0.1:0", "--fleet", f"@{path}", *LISTEN))
    try:
        relay.wait_for_line("^relay ready")
        assert relay.count_lines("password is exposed") == (1 if secret else 0)
    finally:
        relay.kill()


@pytest.mark.parametrize("missing", ["redis", "redis.cluster"], ids=["none", "an old one"])
def test_missing_library_says_what_to_install(tmp_path: Path, missing: str) -> None:
    hidden = (
        f"import sys; sys.modules.update({{'valkey': None, {missing!r}: None}}); "
        "import strelay; sys.exit(strelay.main())"
    )
    arguments = command(write_identity(tmp_path), "127.0.0.1:0", *FLEET, *LISTEN)[2:]
    done = run_python("-c", hidden, *arguments, directory=ROOT)
    assert done.status == 2
    assert "pip install valkey" in done.err and "apt-get install python3-redis" in done.err
    assert done.err.count("\n") == 1, done.err
