"""What the scripts share: reading a command line by its help page, and ending well.

A script's help page is its grammar, read by docopt (docopt-ng, or docopt 0.6.2). Every option stands in it
on a line of its own that begins with it, as in `  -o FILE, --output FILE  The file to make.`
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Callable, NamedTuple, Optional

from docopt import DocoptExit, docopt

from offset_common.errors import PersonError, UsageError

STATUS_FAILED = 1
STATUS_INTERRUPTED = 130  # as a shell reports a program that SIGINT ended
STATUS_BROKEN_PIPE = 141  # and one that SIGPIPE ended


class CommandLineError(UsageError):
    """The arguments do not fit the help page.

    Args:
        reason: a sentence without a full stop.
        usage: the usage part of the help page.
    """

    def __init__(self, reason: str, usage: str) -> None:
        super().__init__(reason)
        self.usage = usage


def parse(doc: str, argv: Sequence[str], version: str, options_first: bool = False) -> dict[str, Any]:
    """Read the arguments by the help page; --help and --version are answered here, and end the program.

    Args:
        doc: the help page.
        argv: the arguments, without the name of the program.
        version: what --version prints.
        options_first: leave everything after the first argument that is no option alone.

    Returns:
        The value of each option and argument by its name, as docopt gives them.

    Raises:
        CommandLineError: the arguments do not fit.
        SystemExit: --help or --version is done; run() takes it.
    """
    try:
        return dict(docopt(doc, list(argv), True, version, options_first))
    except DocoptExit as error:
        reason = _own_words(error) or _explain(doc, error.usage, argv, options_first)
        raise CommandLineError(reason, error.usage.strip()) from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about a word that is not known: names the nearest one, if one is near."""
    names = list(known)
    nearest = [name for name in names if name.startswith(word)] or difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def run(program: str, function: Callable[[], Optional[int]]) -> int:
    """Run a script's work, and turn whatever a person can cause into a line on stderr and an exit status.

    Args:
        program: the name that begins the line.
        function: the work; returns the exit status, or None for 0.

    Returns:
        The exit status.
    """
    try:
        status = _finish(function)
    except PersonError as error:
        report(program, error)
        return error.exit_status
    except KeyboardInterrupt:
        return STATUS_INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return STATUS_BROKEN_PIPE
    except OSError as error:
        _drop_stdout()
        report(program, error)
        return STATUS_FAILED
    return status


def report(program: str, error: Exception) -> None:
    """Write one line about the error to stderr; after a CommandLineError, the usage as well."""
    text = f"{program}: {_printable(str(error))}\n"
    if isinstance(error, CommandLineError):
        text += f"{error.usage}\n"
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


def _finish(function: Callable[[], Optional[int]]) -> int:
    """Run to the end, the last byte of output included: an error there is an error as well."""
    status: object
    try:
        status = function()
    except SystemExit as done:
        status = done.code
    if sys.stdout is not None:
        sys.stdout.flush()
    return status if isinstance(status, int) else 0


def _drop_stdout() -> None:
    """Send what is left of the output nowhere, or the interpreter would complain about it at its end."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _printable(text: str) -> str:
    """Escape what would break the line or steer the terminal: a file may have any name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class _Option(NamedTuple):
    short: str
    long: str
    takes_value: bool


_OPTION_LINE = re.compile(r"^ +(-\w)(?: [^\s,]+)?, (--[\w-]+)(?:[ =](\S+))?(?:  |$)", re.MULTILINE)


def _options(doc: str) -> list[_Option]:
    return [_Option(short, long, bool(value)) for short, long, value in _OPTION_LINE.findall(doc)] + [
        _Option("", long, bool(value))
        for long, value in re.findall(r"^ +(--[\w-]+)(?:[ =](\S+))?  ", doc, re.M)
    ]


def _own_words(error: DocoptExit) -> str:
    """What docopt itself says, unless it is about its own insides."""
    words = str(error.code).replace(error.usage.strip(), "").strip()
    return "" if words.startswith("Warning:") else words


def _explain(doc: str, usage: str, argv: Sequence[str], options_first: bool) -> str:
    """Say why the arguments do not fit, for which docopt has no words."""
    options = _options(doc)
    given: list[str] = []
    arguments: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        if token == "--" or (options_first and not token.startswith("-")):
            arguments += [token, *tokens]
        elif token.startswith("-") and token != "-":
            option = _find(token, options)
            if option is None:
                return _unknown(token, options)
            given.append(option.long)
            if option.takes_value and token in (option.short, option.long[: len(token)]):
                next(tokens, None)
        else:
            arguments.append(token)
    return _misfit(usage, given, arguments)


def _find(token: str, options: list[_Option]) -> Optional[_Option]:
    name = token.partition("=")[0]
    if token.startswith("--"):
        fitting = [o for o in options if o.long == name] or [o for o in options if o.long.startswith(name)]
    else:
        fitting = [o for o in options if o.short == token[:2]]
    return fitting[0] if len(fitting) == 1 else None


def _unknown(token: str, options: list[_Option]) -> str:
    name = token.partition("=")[0] if token.startswith("--") else token[:2]
    several = [o.long for o in options if o.long.startswith(name)]
    if token.startswith("--") and len(several) > 1:
        return f"{name} may be {' or '.join(several)}"
    return f"unknown option {name}{did_you_mean(token.partition('=')[0], [o.long for o in options])}"


def _misfit(usage: str, given: list[str], arguments: list[str]) -> str:
    """Compare what is given with the first line of the usage."""
    pattern = usage.partition(":")[2].strip().partition("\n")[0]
    repeatable = re.findall(r"(--[\w-]+)[^-]*?\.\.\.", pattern)
    repeated = [name for name in given if given.count(name) > 1 and name not in repeatable]
    if repeated:
        return f"{repeated[0]} is given twice"
    required = re.sub(r"\[.*?\]", "", pattern)
    missing = [name for name in re.findall(r"--[\w-]+", required) if name not in given]
    words = pattern.split()
    others = [word for word in arguments if word not in words]
    missing += re.findall(r"<[\w-]+>", required)[len(others) :]
    if missing:
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    stray = others[len(re.findall(r"<[\w-]+>", pattern)) :]
    if stray:
        return f"nothing is expected to be {stray[0]!r}"
    return "the arguments do not fit the usage"
