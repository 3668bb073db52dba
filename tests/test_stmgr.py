"""stmgr: its commands, compared with files of the original, and its error messages."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import stmgr
from offset_common.command_line import as_started
from offset_common.commands.manage_files import COMMANDS, VERSION
from offset_common.identity import load_identity
from tests.commands import FILES, ROOT, run_python, run_stmgr
from tests.minimal_tunnel import RECORDED

RELAY = str(FILES / "relay.ident")
APP = str(FILES / "app.ident")

ALL = {**RECORDED, "my.ident": "gen-ident"}
LONG = {"-i": "--idfile", "-a": "--address", "-n": "--nodeid", "-p": "--appid", "-o": "--output"}
each_command = pytest.mark.parametrize("name", ALL)


@pytest.fixture(autouse=True)
def among_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands in the directory of the original's files."""
    monkeypatch.chdir(FILES)


def command(name: str, output: object) -> list[str]:
    """Return the command line that creates a file."""
    return [*ALL[name].split(), "-o", str(output)]


@pytest.mark.parametrize("names", [{}, LONG], ids=["short options", "long options"])
@pytest.mark.parametrize("name", RECORDED)
def test_commands_create_the_files_of_the_original(name, names, tmp_path, capsys):
    line = [names.get(word, word) for word in command(name, tmp_path / name)]
    assert run_stmgr(capsys, *line) == (0, "", "")
    assert (tmp_path / name).read_bytes() == (FILES / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_gen_ident_creates_a_new_identity_each_time(tmp_path, capsys):
    for name in ("a", "b"):
        assert run_stmgr(capsys, *command("my.ident", tmp_path / name)) == (0, "", "")
    assert load_identity(tmp_path / "a").public_key != load_identity(tmp_path / "b").public_key
    assert (tmp_path / "a").stat().st_size == (FILES / "relay.ident").stat().st_size


@pytest.mark.parametrize("number", range(16))
def test_each_permission_has_its_own_option(number, tmp_path):
    flags = ["routes", "buyer", "seller", "config"]
    given = [flag for bit, flag in enumerate(flags) if number & 1 << bit]
    line = ["app-ticket", "-i", APP, "-o", str(tmp_path / "a"), *(f"--p{flag}" for flag in given)]
    assert stmgr.main(line) == 0
    text = (tmp_path / "a").read_text()
    assert [flag for flag in flags if f'"{flag}": true' in text] == given


@each_command
def test_only_files_with_private_keys_are_private(name, tmp_path):
    before = os.umask(0o022)
    try:
        stmgr.main(command(name, tmp_path / name))
    finally:
        os.umask(before)
    private = "rivateKey" in (tmp_path / name).read_text()
    assert private is (name in ("my.ident", "node.rcard"))
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == (0o600 if private else 0o644)


@each_command
def test_an_existing_file_is_not_overwritten(name, tmp_path, capsys):
    output = tmp_path / name
    output.write_text("mine")
    line = f"stmgr: {output}: the file already exists; choose another name or remove it first\n"
    assert run_stmgr(capsys, *command(name, output)) == (1, "", line)
    assert output.read_text() == "mine"


def test_the_help_page_lists_every_command(capsys):
    forms = (["help"], ["--help"], ["-h"], ["help", "help"], ["--help", "gen-ident"])
    (page,) = {run_stmgr(capsys, *line) for line in forms}
    assert stmgr.__doc__
    assert (page.status, page.err, page.out.strip()) == (0, "", stmgr.__doc__.strip())
    for name in COMMANDS:
        summary = run_stmgr(capsys, "help", name).out.splitlines()[0]
        assert f"  {name:13} {summary}\n" in page.out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_page(name, capsys):
    forms = (["help", name], [name, "--help"], [name, "-h"], [name, "--output", "x", "--help"])
    (page,) = {run_stmgr(capsys, *line) for line in forms if "--output" not in line or "gen" in name}
    assert (page.status, page.err) == (0, "")
    assert f"\nUsage:\n  stmgr.py {name} " in page.out
    assert max(len(line) for line in page.out.splitlines()) <= 110
    assert page.out.isascii()


@pytest.mark.parametrize("line", [["--version"], ["-V"], *([name, "-V"] for name in COMMANDS)])
def test_the_version_is_shown(line, capsys):
    assert run_stmgr(capsys, *line) == (0, f"{VERSION}\n", "")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "a command is missing"),
        ("gen-iden -o x", "unknown command 'gen-iden'; did you mean gen-ident?"),
        ("help zzz", "unknown command 'zzz'"),
        ("-o x gen-ident", "unknown option -o"),
        ("relay-ticket -i x", "--address and --output are missing"),
        ("show", "<file> is missing"),
        ("relay-check a b", "unexpected argument 'b'"),
    ],
)
def test_a_wrong_command_line_is_explained(line, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out, err = run_stmgr(capsys, *line.split())
    assert (status, out) == (2, "")
    assert err.startswith(f"stmgr: {reason}\nUsage:\n  stmgr.py ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", [[], ["zzz"], ["help", "zzz"], ["--", "zzz"]])
def test_without_a_known_command_all_are_listed(line, capsys):
    err = run_stmgr(capsys, *line).err
    assert "\n\nCommands:\n" in err
    for name in [*COMMANDS, "help"]:
        assert re.search(rf"^  {name} +[A-Z].*\.$", err, re.MULTILINE)


ADVICE = "copy the file again, or make a new one"
INVALID_FILES = {
    "missing": (None, "there is no file with this name; check the name and the directory"),
    "no JSON": (b"hello", "the file is not an Offset file; check its name"),
    "damaged JSON": (
        b"{",
        "not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1);"
        f" {ADVICE}",
    ),
    "no key": (b"{}", f'the field "privateKey" is missing; {ADVICE}'),
    "a number": (b'{"privateKey": 1}', f'"privateKey" is a number, not a string; {ADVICE}'),
    "a short key": (b'{"privateKey": "AAAA"}', '"privateKey" has 4 characters; a 32-byte key has 43'),
}


WITH_IDENTITY = [
    "relay-ticket -a h:1 -i",
    "index-ticket -a h:1 -i",
    "node-ticket -a h:1 -i",
    "app-ticket -i",
    "init-node-db -i",
    f"node-entry -a h:1 -n {RELAY} -p",
    f"node-entry -a h:1 -p {RELAY} -n",
]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        *((line, "missing") for line in WITH_IDENTITY),
        *(("app-ticket -i", kind) for kind in INVALID_FILES if kind != "missing"),
    ],
)
def test_an_invalid_identity_file_is_explained(line, kind, tmp_path, capsys):
    content, reason = INVALID_FILES[kind]
    path = tmp_path / "a.ident"
    if content is not None:
        path.write_bytes(content)
    outcome = run_stmgr(capsys, *line.split(), path, "-o", tmp_path / "output")
    assert outcome == (1, "", f"stmgr: {path}: {reason}\n")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", ["relay.relay", "index.index", "node.ticket", "node.rcard"])
def test_an_address_for_new_tickets_is_required(name, tmp_path, capsys):
    line = command(name, tmp_path / name)
    line[line.index("-a") + 1] = "my_relay.example:80"
    status, out, err = run_stmgr(capsys, *line)
    assert (status, out) == (2, "")
    assert err.startswith("stmgr: --address: the address 'my_relay.example:80' has '_' in its host name")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# The following tests need a process of their own.


def stmgr_process(*line: object, **how: object) -> subprocess.Popen[bytes]:
    options: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.Popen([sys.executable, ROOT / "stmgr.py", *line], **options)  # type: ignore[call-overload,no-any-return]


def test_the_script_runs_in_any_directory(tmp_path):
    process = stmgr_process("gen-ident", "-o", "a.ident", cwd=tmp_path)
    assert process.communicate() == (b"", b"")
    assert process.returncode == 0
    assert load_identity(tmp_path / "a.ident")


@pytest.mark.parametrize("name", ["stmgr", "stmgr.py", "offset-files"])
@pytest.mark.parametrize("line", [["--help"], ["relay-ticket", "--help"], []], ids=" ".join)
def test_pages_have_the_name_that_started_the_program(line, name, tmp_path):
    (tmp_path / name).symlink_to(ROOT / "stmgr.py")
    _, out, err = run_python(tmp_path / name, *line)
    page = out + err
    assert re.search(rf"\nUsage:\n  {re.escape(name)} ", page)
    assert set(re.findall(r"\b(?:offset-files|stmgr|strelay)(?:\.py)?(?= [a-z-])", page)) <= {name, "stmgr"}
    assert ("stmgr.py" in page) is (name == "stmgr.py")


@pytest.mark.parametrize("name", ["two words", "<x>", "-c", "[a]"])
def test_a_name_that_is_not_a_word_is_not_shown(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"/bin/{name}"])
    assert as_started("Usage:\n  stmgr.py x", "stmgr.py") == "Usage:\n  stmgr.py x"


def test_an_installed_command_mentions_installed_commands(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/strelay"])
    assert as_started("strelay.py: see stmgr.py", "strelay.py") == "strelay: see stmgr"


def test_a_file_name_that_is_not_utf_8_is_escaped(tmp_path):
    process = stmgr_process("app-ticket", "-i", b"a\xff\n\x1b", "-o", "x", cwd=tmp_path)
    assert process.communicate() == (
        b"",
        b"stmgr: a\\udcff\\n\\x1b: there is no file with this name; check the name and the directory\n",
    )
    assert process.returncode == 1


@pytest.mark.parametrize("line", [["help"], ["gen-ident", "--help"], ["--version"]])
def test_a_closed_output_pipe_is_not_reported(line):
    reader, writer = os.pipe()
    os.close(reader)
    process = stmgr_process(*line, stdout=writer)
    os.close(writer)
    assert process.communicate()[1] == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported():
    with Path("/dev/full").open("wb") as full:
        process = stmgr_process("help", stdout=full)
    assert process.communicate()[1] == b"stmgr: the disk is full; free some space and try again\n"
    assert process.returncode == 1


def test_commands_run_without_standard_streams(tmp_path):
    line = ["sh", "-c", '"$@" >&- 2>&- <&-', "sh", sys.executable, str(ROOT / "stmgr.py")]
    assert subprocess.run([*line, "help"], check=False).returncode == 0
    assert subprocess.run([*line, "gen-ident", "-o", str(tmp_path / "a")], check=False).returncode == 0
    assert subprocess.run([*line, "gen-ident", "-o", str(tmp_path / "a")], check=False).returncode == 1
    assert load_identity(tmp_path / "a")


def test_an_interrupt_ends_the_process_with_status_130(tmp_path):
    pipe = tmp_path / "a.ident"
    os.mkfifo(pipe)
    process = stmgr_process("app-ticket", "-i", pipe, "-o", tmp_path / "x")
    with pipe.open("wb"):  # returns when the process has opened it for reading
        process.send_signal(signal.SIGINT)
        try:
            output = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            # The signal arrived just before the read, which it then does not interrupt. Send it again.
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=60)
        assert output == (b"", b"")
    assert process.returncode == 130
    assert not (tmp_path / "x").exists()
