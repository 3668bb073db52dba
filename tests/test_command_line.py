"""Command lines: parsing by help page, error reports and exit statuses."""

from __future__ import annotations

import io
import os
import sys

import pytest

import stforward
import stmgr
from offset_common import requirements
from offset_common.command_line import CommandLineError, did_you_mean, parse, report, run
from offset_common.errors import FileError, ServiceError, UsageError

PAGE = """Serve.

Usage:
  serve.py --idfile FILE --laddr IP:PORT [options]

Options:
  -i FILE, --idfile FILE   The identity.
  -l IP:PORT, --laddr IP:PORT  Where to listen.
  --max-connections=N      How many.  [default: 10]
  --max-buffers N          How much.
  --quiet                  Say less.
  -h, --help               Show this page.
  -V, --version            Show the version.
"""


@pytest.mark.parametrize(
    "line",
    ["-i a -l b", "-ia -lb", "-i=a -l=b", "--idfile a --laddr b", "--laddr=b --idfile=a", "--id a --la=b"],
)
def test_options_are_parsed_in_every_form(line):
    values = parse(PAGE, line.split(), "serve 1")
    assert (values["--idfile"], values["--laddr"], values["--max-connections"]) == ("a", "b", "10")


@pytest.mark.parametrize(
    ("line", "idfile", "laddr"),
    [
        (["-i=a=b", "-l=c"], "a=b", "c"),
        (["-i", "=a", "-l=="], "=a", "="),
        (["-i", "-l=c", "-l", "d"], "-l=c", "d"),
        (["--idfile", "-i=a", "-l=c"], "-i=a", "c"),
        (["--idfile=-i=a", "-l=c"], "-i=a", "c"),
    ],
)
def test_an_equals_sign_follows_a_short_option(line, idfile, laddr):
    values = parse(PAGE, line, "serve 1")
    assert (values["--idfile"], values["--laddr"]) == (idfile, laddr)


@pytest.mark.parametrize("line", [["-i="], ["-i", ""], ["--idfile", ""], ["--idfile="]])
def test_an_empty_value_has_the_name_of_its_option(line):
    with pytest.raises(UsageError, match=r"^--idfile is empty; give it a value"):
        parse(PAGE, [*line, "-l=c"], "serve 1")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "--idfile and --laddr are missing"),
        ("-i", "-i requires argument"),
        ("-i a -l b --idfil c", "--idfile is given more than once"),
        ("-i a -l b -x", "unknown option -x"),
        ("-i a -l b --queit", "unknown option --queit; did you mean --quiet?"),
        ("-i a --ladr=b", "unknown option --ladr; did you mean --laddr?"),
        ("-i a -l b --max-connection 3 --max-bufers=3", "did you mean --max-buffers?"),
        ("-idfile a -laddr b", "unknown option -idfile; did you mean --idfile?"),
        ("-i --ouput -l b stray", "unexpected argument 'stray'"),
        ("-i a -l b -- stray", "unexpected argument '--'"),
        ("-i a -l b --quiet=3", "--quiet must not have an argument"),
    ],
)
def test_wrong_arguments_are_explained(line, reason):
    with pytest.raises(CommandLineError) as caught:
        parse(PAGE, line.split(), "serve 1")
    assert reason in str(caught.value)
    assert caught.value.usage == "Usage:\n  serve.py --idfile FILE --laddr IP:PORT [options]"


@pytest.mark.parametrize("word", ["–idfile", "—idfile=a", "−i", "—"])
def test_a_dash_that_is_not_a_hyphen_is_explained(word):
    # Pasted from a page or a message in which "--" became a dash.
    with pytest.raises(UsageError) as caught:
        parse(PAGE, ["-l=b", word, "a"], "serve 1")
    assert str(caught.value) == f"{word!r} begins with a dash that is not a hyphen; type - or -- instead"


def test_an_ambiguous_abbreviation_lists_the_options():
    with pytest.raises(CommandLineError, match="--max-connections") as caught:
        parse(PAGE, ["-i", "a", "-l", "b", "--max", "3"], "serve 1")
    assert "--max-buffers" in str(caught.value)


def test_a_repeatable_option_may_be_repeated():
    page = "Usage:\n  several.py --to PLACE (--allow KEY)...\n\n  --to PLACE   Where.\n  --allow KEY  Who.\n"
    with pytest.raises(UsageError, match="--to is missing"):
        parse(page, ["--allow", "a", "--allow", "b"], "1")


def test_three_missing_arguments_are_listed():
    with pytest.raises(CommandLineError, match=r"^<file>, <name> and <place> are missing$"):
        parse("Usage: send.py <file> <name> <place>\n", [], "1", options_first=True)


def test_arguments_are_compared_with_their_own_usage_line():
    page = "Usage:\n  chat.py room <ticket>\n  chat.py join <ticket> <name>\n"
    with pytest.raises(CommandLineError, match="<name> is missing"):
        parse(page, ["join", "a"], "1", options_first=True)
    with pytest.raises(CommandLineError, match="unexpected argument 'c'"):
        parse(page, ["join", "a", "b", "c"], "1", options_first=True)


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("gen-iden", "; did you mean gen-ident?"),
        ("gen", "; did you mean gen-ident?"),
        ("node-tikcet", "; did you mean node-ticket?"),
        ("zzz", ""),
    ],
)
def test_the_closest_known_word_is_suggested(word, suggestion):
    assert did_you_mean(word, ["gen-ident", "node-ticket"]) == suggestion


def raising(error: BaseException):
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (FileError("a.ident", "is empty"), 1, "prog: a.ident: is empty\n"),
        (ServiceError("port 80 is taken"), 1, "prog: port 80 is taken\n"),
        (UsageError("the address is invalid"), 2, "prog: the address is invalid\n"),
        (CommandLineError("what", "Usage:\n  x"), 2, "prog: what\nUsage:\n  x\n"),
        (
            OSError(5, "Input/output error"),
            1,
            "prog: the device failed (input/output error); check the disk or the terminal\n",
        ),
        (OSError(28, "x", "/a/b"), 1, "prog: /a/b: the disk is full; free some space and try again\n"),
        (
            ModuleNotFoundError("No module named '_sqlite3'", name="_sqlite3"),
            1,
            "prog: this Python has no module _sqlite3; use one that was built with it, such as Debian's"
            " python3\n",
        ),
        (MemoryError(), 1, "prog: the system has too little memory; close some programs\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(), 0, ""),
        (SystemExit(3), 3, ""),
        (SystemExit("nobody is there"), 1, "prog: nobody is there\n"),
    ],
)
def test_each_error_has_its_line_and_exit_status(error, status, line, capsys):
    assert run("prog", raising(error)) == status
    assert capsys.readouterr() == ("", line)


def test_a_returned_status_is_the_exit_status(capsys):
    assert run("prog", lambda: None) == 0
    assert run("prog", lambda: 7) == 7
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "bug",
    [
        ZeroDivisionError(),
        ModuleNotFoundError("No module named 'offset_common.lost'", name="offset_common.lost"),
        ImportError("cannot import name 'lost'", name="offset_common"),
    ],
    ids=repr,
)
def test_a_bug_is_not_hidden(bug):
    with pytest.raises(type(bug)):
        run("prog", raising(bug))


def test_a_missing_dev_null_is_reported(monkeypatch, capsys):
    descriptor = os.dup(0)
    os.close(0)  # as with <&-
    try:
        monkeypatch.setattr(os, "devnull", "/nowhere/null")
        assert run("prog", lambda: 0) == 1
    finally:
        os.dup2(descriptor, 0)
        os.close(descriptor)
    assert capsys.readouterr() == ("", "prog: /nowhere/null: no such file or directory\n")


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "bell\a", "lone\udcff", "\u2028"])
def test_unprintable_characters_are_escaped(name, capsys):
    report("prog", FileError(name, "is empty"))
    line = capsys.readouterr().err
    assert line.endswith("is empty\n")
    assert line[:-1].isprintable()


class BrokenStream(io.StringIO):
    def write(self, _text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("stream", [None, BrokenStream()])
def test_the_status_is_set_even_without_stderr(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    assert run("prog", raising(UsageError("what"))) == 2


@pytest.mark.parametrize("script", [stmgr, stforward])
def test_an_interrupt_of_the_imports_is_silent(script, monkeypatch, capsys):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(requirements, "check", interrupt)
    assert script.main([]) == 130
    assert capsys.readouterr() == ("", "")
