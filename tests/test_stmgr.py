"""stmgr: its commands against the files of the original, and how it says no."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import stmgr
from offset_common.identity import load_identity

ROOT = Path(__file__).parent.parent
FILES = Path(__file__).parent / "vectors" / "files"
RELAY = str(FILES / "relay.ident")
APP = str(FILES / "app.ident")

# The file of the original, and the command with the values of the options that stand for letters.
RECORDED = {
    "relay.relay": ["relay-ticket", "i", RELAY, "a", "relay.example.com:1337"],
    "index.index": ["index-ticket", "i", RELAY, "a", "[2001:db8::1]:1337"],
    "node.ticket": ["node-ticket", "i", RELAY, "a", "127.0.0.1:8900"],
    "app.ticket": ["app-ticket", "i", APP, "--pseller", "--pbuyer"],
    "node.rcard": ["node-entry", "n", RELAY, "p", APP, "a", "127.0.0.1:8900"],
    "node.db": ["init-node-db", "i", RELAY],
}
LONG = {"i": "idfile", "a": "address", "n": "nodeid", "p": "appid", "o": "output"}
COMMANDS = ["gen-ident", *(words[0] for words in RECORDED.values())]


def command(name: str, output: object, form: str = "long") -> list[str]:
    """The command line that makes a recorded file, with its options in one of the forms that there are."""
    words = [*RECORDED[name], "o", str(output)] if name in RECORDED else ["gen-ident", "o", str(output)]
    line = [words.pop(0)]
    while words:
        word = words.pop(0)
        if word not in LONG:
            line.append(word)
        elif form == "short":
            line += [f"-{word}", words.pop(0)]
        elif form == "joined short":
            line.append(f"-{word}{words.pop(0)}")
        elif form == "long":
            line += [f"--{LONG[word]}", words.pop(0)]
        elif form == "long with =":
            line.append(f"--{LONG[word]}={words.pop(0)}")
        elif form == "abbreviated":
            line += [f"--{LONG[word][:2]}", words.pop(0)]
        elif form == "backwards":
            line[1:1] = [f"-{word}", words.pop(0)]
    return line


@pytest.mark.parametrize("form", ["short", "joined short", "long", "long with =", "abbreviated", "backwards"])
@pytest.mark.parametrize("name", RECORDED)
def test_a_command_makes_byte_for_byte_the_file_of_the_original_and_says_nothing(
    name, form, tmp_path, capsys
):
    assert stmgr.main(command(name, tmp_path / name, form)) == 0
    assert (tmp_path / name).read_bytes() == (FILES / name).read_bytes()
    assert capsys.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("form", ["short", "joined short", "long", "long with =", "abbreviated"])
def test_gen_ident_makes_another_identity_each_time(form, tmp_path, capsys):
    for name in ("a", "b"):
        assert stmgr.main(command("gen-ident", tmp_path / name, form)) == 0
    assert load_identity(tmp_path / "a").public_key != load_identity(tmp_path / "b").public_key
    assert (tmp_path / "a").stat().st_size == (FILES / "relay.ident").stat().st_size
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", range(16))
def test_each_permission_of_an_app_has_its_own_option(number, tmp_path):
    flags = ["routes", "buyer", "seller", "config"]
    given = [flag for bit, flag in enumerate(flags) if number & 1 << bit]
    line = ["app-ticket", "-i", APP, "-o", str(tmp_path / "a"), *(f"--p{flag}" for flag in given)]
    assert stmgr.main(line) == 0
    text = (tmp_path / "a").read_text()
    assert [flag for flag in flags if f'"{flag}": true' in text] == given


@pytest.mark.parametrize("name", ["gen-ident", *RECORDED])
def test_a_file_with_a_private_key_is_for_its_owner_alone(name, tmp_path):
    before = os.umask(0o022)
    try:
        stmgr.main(command(name, tmp_path / name))
    finally:
        os.umask(before)
    private = "rivateKey" in (tmp_path / name).read_text()
    assert private is (name in ("gen-ident", "node.rcard"))
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == (0o600 if private else 0o644)


@pytest.mark.parametrize("name", ["gen-ident", *RECORDED])
def test_an_existing_output_is_never_touched(name, tmp_path, capsys):
    output = tmp_path / name
    output.write_text("mine")
    assert stmgr.main(command(name, output)) == 1
    assert output.read_text() == "mine"
    assert capsys.readouterr() == ("", f"stmgr: {output}: exists already, and no file is ever overwritten\n")


def test_help_in_all_its_forms_is_the_same_page_and_names_every_command_by_its_sentence(capsys):
    pages = set()
    for line in (["help"], ["--help"], ["-h"], ["help", "help"], ["--help", "gen-ident"]):
        assert stmgr.main(line) == 0
        pages.add(capsys.readouterr())
    (page,) = pages
    assert page.err == ""
    assert stmgr.__doc__ and page.out.strip() == stmgr.__doc__.strip()
    for name in COMMANDS:
        stmgr.main(["help", name])
        sentence = capsys.readouterr().out.splitlines()[0]
        assert f"  {name:13} {sentence}\n" in page.out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_shows_its_own_page(name, capsys):
    pages = set()
    for line in (["help", name], [name, "--help"], [name, "-h"], [name, "--output", "x", "--help"]):
        assert stmgr.main(line) == 0
        pages.add(capsys.readouterr())
    (page,) = pages
    assert page.err == ""
    assert f"\nUsage:\n  stmgr.py {name} --" in page.out
    assert "\n  -o FILE, --output FILE  " in page.out
    assert max(len(line) for line in page.out.splitlines()) <= 110
    assert page.out.isascii()


@pytest.mark.parametrize("line", [["--version"], ["-V"], *([name, "-V"] for name in COMMANDS)])
def test_the_version_is_shown(line, capsys):
    assert stmgr.main(line) == 0
    assert capsys.readouterr() == (f"{stmgr.VERSION}\n", "")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "<command> is missing"),
        ("gen-iden -o x", "there is no command 'gen-iden'; did you mean gen-ident?"),
        ("relay_ticket", "there is no command 'relay_ticket'; did you mean relay-ticket?"),
        ("hlep", "there is no command 'hlep'; did you mean help?"),
        ("zzz", "there is no command 'zzz'"),
        ("help zzz", "there is no command 'zzz'"),
        ("--verison", "unknown option --verison; did you mean --version?"),
        ("-o x gen-ident", "unknown option -o"),
        ("gen-ident", "--output is missing"),
        ("gen-ident -o", "-o requires argument"),
        ("gen-ident -o x y", "nothing is expected to be 'y'"),
        ("gen-ident -o x -o y", "--output is given twice"),
        ("gen-ident --ouput x", "unknown option --ouput; did you mean --output?"),
        ("gen-ident -o x -q", "unknown option -q"),
        ("gen-ident -o x -i y", "unknown option -i"),
        ("relay-ticket -i x", "--address and --output are missing"),
        ("relay-ticket -i x -o y --adress h:1", "unknown option --adress; did you mean --address?"),
        ("app-ticket -i x -o y --pbuyers", "unknown option --pbuyers; did you mean --pbuyer?"),
        ("app-ticket -i x -o y --pbuyer=1", "--pbuyer must not have an argument"),
        ("node-entry -i x -a h:1 -o y", "unknown option -i"),
        ("init-node-db -o y", "--idfile is missing"),
    ],
)
def test_a_wrong_command_line_is_told_why_with_the_usage_and_status_2(
    line, reason, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert stmgr.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == f"stmgr: {reason}"
    assert err.splitlines()[1] == "Usage:"
    assert err.splitlines()[2].startswith("  stmgr.py ")
    assert list(tmp_path.iterdir()) == []


WRONG_FILES = {
    "none": (None, "No such file or directory"),
    "empty": (b"", "is empty"),
    "binary": (b"\xff\xfe\x00", "is not UTF-8 text (byte 0)"),
    "words": (b"hello", "is not JSON: Expecting value: line 1 column 1 (char 0)"),
    "list": (b"[]", "holds a list, not a JSON object"),
    "huge": (b" " * 10**6, "is over 65536 bytes, which no Offset file is"),
    "no key": (b"{}", 'has no "privateKey"'),
    "number": (b'{"privateKey": 1}', '"privateKey" is a number, not a string'),
    "short": (b'{"privateKey": "AAAA"}', '"privateKey" has 4 characters, not the 43 of a 32-byte key'),
    "padded": (
        b'{"privateKey": "' + b"A" * 43 + b'="}',
        "\"privateKey\" ends in '=': keys are base64 without padding",
    ),
    "not base64": (b'{"privateKey": "' + b"A" * 42 + b'!"}', '"privateKey" is not base64 (character 43)'),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
@pytest.mark.parametrize(
    "line",
    [
        "relay-ticket -a h:1 -i",
        "index-ticket -a h:1 -i",
        "node-ticket -a h:1 -i",
        "app-ticket -i",
        "init-node-db -i",
        f"node-entry -a h:1 -n {RELAY} -p",
        f"node-entry -a h:1 -p {RELAY} -n",
    ],
)
def test_a_wrong_file_is_one_line_with_its_name_and_the_reason_and_status_1(line, kind, tmp_path, capsys):
    content, reason = WRONG_FILES[kind]
    path = tmp_path / "a.ident"
    if content is not None:
        path.write_bytes(content)
    assert stmgr.main([*line.split(), str(path), "-o", str(tmp_path / "output")]) == 1
    assert capsys.readouterr() == ("", f"stmgr: {path}: {reason}\n")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", ["relay.relay", "index.index", "node.ticket", "node.rcard"])
@pytest.mark.parametrize(
    "address", ["relay.example.com", "::1:1337", "0.0.0.0:1", "a b:1", "-a:1", "x" * 300, ""]
)
def test_what_cannot_be_an_address_is_one_line_with_status_2_and_makes_no_file(
    name, address, tmp_path, capsys
):
    line = command(name, tmp_path / name, "long")
    line[line.index("--address") + 1] = address
    assert stmgr.main(line) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stmgr: the address '")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["gen-ident", *RECORDED])
def test_an_output_in_a_folder_that_is_missing_is_one_line_with_status_1(name, tmp_path, capsys):
    output = tmp_path / "none" / name
    assert stmgr.main(command(name, output)) == 1
    line = f"stmgr: {output}: there is no folder '{output.parent}' to put it in\n"
    assert capsys.readouterr() == ("", line)


# The rest needs a process of its own.


def stmgr_process(*line: object, **how: object) -> subprocess.Popen[bytes]:
    options: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.Popen([sys.executable, ROOT / "stmgr.py", *line], **options)  # type: ignore[call-overload,no-any-return]


def test_the_script_runs_from_any_folder(tmp_path):
    process = stmgr_process("gen-ident", "-o", "a.ident", cwd=tmp_path)
    assert process.communicate() == (b"", b"")
    assert process.returncode == 0
    assert load_identity(tmp_path / "a.ident")


def test_a_file_whose_name_is_not_utf_8_is_named_in_one_line(tmp_path):
    process = stmgr_process("app-ticket", "-i", b"a\xff\n\x1b", "-o", "x", cwd=tmp_path)
    assert process.communicate() == (b"", b"stmgr: a\\udcff\\n\\x1b: No such file or directory\n")
    assert process.returncode == 1


def test_wrong_usage_ends_the_process_with_status_2():
    process = stmgr_process("gen-ident", "--ouput", "x")
    out, err = process.communicate()
    assert (out, process.returncode) == (b"", 2)
    assert err.startswith(b"stmgr: unknown option --ouput; did you mean --output?\nUsage:\n")


@pytest.mark.parametrize("line", [["help"], ["gen-ident", "--help"], ["--version"]])
def test_nobody_reading_the_output_is_no_error_to_talk_about(line):
    reader, writer = os.pipe()
    os.close(reader)
    process = stmgr_process(*line, stdout=writer)
    os.close(writer)
    assert process.communicate()[1] == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_output_is_one_line():
    with Path("/dev/full").open("wb") as full:
        process = stmgr_process("help", stdout=full)
    assert process.communicate()[1] == b"stmgr: [Errno 28] No space left on device\n"
    assert process.returncode == 1


def test_an_output_that_was_never_open_is_no_traceback(tmp_path):
    line = ["sh", "-c", '"$@" >&- 2>&- <&-', "sh", sys.executable, str(ROOT / "stmgr.py")]
    assert subprocess.run([*line, "help"], check=False).returncode == 0
    assert subprocess.run([*line, "gen-ident", "-o", str(tmp_path / "a")], check=False).returncode == 0
    assert subprocess.run([*line, "gen-ident", "-o", str(tmp_path / "a")], check=False).returncode == 1
    assert load_identity(tmp_path / "a")


def test_an_interrupt_ends_the_process_quietly_with_status_130(tmp_path):
    pipe = tmp_path / "a.ident"
    os.mkfifo(pipe)
    process = stmgr_process("app-ticket", "-i", pipe, "-o", tmp_path / "x")
    with pipe.open("wb"):  # returns when the process has opened it to read
        process.send_signal(signal.SIGINT)
        try:
            output = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            # The signal came in the moment before the read, which does not see it: once more.
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=20)
        assert output == (b"", b"")
    assert process.returncode == 130
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read and write everything"
)
def test_no_permission_is_one_line_with_the_name_and_the_reason(tmp_path, capsys):
    locked = tmp_path / "a.ident"
    locked.write_bytes((FILES / "app.ident").read_bytes())
    locked.chmod(0)
    tmp_path.chmod(0o500)
    assert stmgr.main(["app-ticket", "-i", str(locked), "-o", str(tmp_path / "x")]) == 1
    assert capsys.readouterr().err == f"stmgr: {locked}: Permission denied\n"
    assert stmgr.main(["app-ticket", "-i", APP, "-o", str(tmp_path / "x")]) == 1
    assert capsys.readouterr().err == f"stmgr: {tmp_path / 'x'}: Permission denied\n"
