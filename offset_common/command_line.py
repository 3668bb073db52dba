"""Parse command lines, report errors and set exit statuses, for all scripts.

docopt (docopt-ng, or docopt 0.6.2) parses the arguments according to the help page. The help page describes
each option on a line of its own, as in `  -o FILE, --output FILE  The file to create.`
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from docopt import DocoptExit, docopt

from offset_common.errors import OperatorError, UsageError, os_error_sentence, quote

STATUS_FAILED = 1
STATUS_INTERRUPTED = 130  # as a shell reports a program that SIGINT killed
STATUS_BROKEN_PIPE = 141  # the same for SIGPIPE

# What word processors and web pages make of a hyphen: hyphens, dashes and the minus sign of Unicode.
_OTHER_DASHES = tuple("\u2010\u2011\u2012\u2013\u2014\u2015\u2212")


class CommandLineError(UsageError):
    """The arguments do not match the usage.

    Args:
        reason: a sentence without a full stop.
        usage: the usage section of the help page.
    """

    def __init__(self, reason: str, usage: str) -> None:
        super().__init__(reason)
        self.usage = usage


def parse(doc: str, argv: Sequence[str], version: str, options_first: bool = False) -> dict[str, Any]:
    """Parse the arguments according to the help page, and handle --help and --version.

    Args:
        doc: the help page.
        argv: the arguments, without the program name.
        version: what --version prints.
        options_first: do not parse anything after the first positional argument.

    Returns:
        The values by option and argument name, as docopt returns them.

    Raises:
        CommandLineError: the arguments do not match the usage.
        UsageError: the value of an option is empty, or an argument begins with a dash that is no hyphen.
        SystemExit: --help or --version was printed; run() handles it.
    """
    for word in argv:
        if word.startswith(_OTHER_DASHES):
            raise UsageError(f"{quote(word)} begins with a dash that is not a hyphen; type - or -- instead")
    try:
        words = list(argv) if options_first else _split_values(doc, argv)
        values = dict(docopt(doc, words, True, version, options_first))
    except DocoptExit as error:
        reason = _docopt_message(error) or _explain(doc, error.usage, argv, options_first)
        raise CommandLineError(reason, error.usage.strip()) from None
    for name, value in values.items():
        if name.startswith("--") and "" in (value if isinstance(value, list) else [value]):
            raise UsageError(f"{name} is empty; give it a value, or leave it out")
    return values


def as_started(page: str, script: str) -> str:
    """Return a help page with the name under which the program was started.

    Args:
        page: the page, which calls the scripts by their file names.
        script: the file name of the script of the page, such as "stmgr.py".
    """
    name = Path(sys.argv[0]).name
    if not re.fullmatch(r"\w[\w.-]*", name):
        return page  # the page is a grammar, where other characters have a meaning
    if not name.endswith(".py"):  # installed as commands
        page = re.sub(r"\b(stmgr|strelay|stforward)\.py\b", r"\1", page)
        script = script[: -len(".py")]
    return re.sub(rf"\b{re.escape(script)}\b", name, page)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the known word closest to an unknown one, or an empty string."""
    names = list(known) if word else []
    closest = [name for name in names if name.startswith(word)] or difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {closest[0]}?" if closest else ""


def run(program: str, function: Callable[[], Optional[int]]) -> int:
    """Run a script's main function, report its error on stderr and return the exit status.

    Args:
        program: the name at the start of the error line.
        function: the main function; returns the exit status, or None for 0.
    """
    try:
        fill_standard_descriptors()
        if sys.stdout is None:  # it was closed
            with redirect_stdout(os.fdopen(1, "w", closefd=False)):
                return run(program, function)
        return _run_and_flush(function)
    except OperatorError as error:
        report(program, error)
        return error.exit_status
    except KeyboardInterrupt:
        return STATUS_INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return STATUS_BROKEN_PIPE
    except OSError as error:
        _drop_stdout()
        where = f"{error.filename}: " if error.filename is not None else ""
        report(program, OperatorError(where + os_error_sentence(error)))
        return STATUS_FAILED
    except ModuleNotFoundError as error:
        # A Python that was built without a library, such as SQLite, lacks the module that needs it.
        if error.name is None or error.name.startswith(__package__):
            raise
        advice = "use one that was built with it, such as Debian's python3"
        report(program, OperatorError(f"this Python has no module {error.name}; {advice}"))
        return STATUS_FAILED
    except MemoryError:
        _drop_stdout()
        report(program, OperatorError(os_error_sentence(OSError(errno.ENOMEM, ""))))
        return STATUS_FAILED


def fill_standard_descriptors() -> None:
    """Open /dev/null for each closed standard descriptor; otherwise a file or socket would get its number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            os.set_inheritable(nowhere, True)


def report(program: str, error: Exception) -> None:
    """Write the error to stderr as one line; add the usage if it is a CommandLineError."""
    text = f"{program}: {printable(str(error))}\n"
    if isinstance(error, CommandLineError):
        text += f"{error.usage}\n"
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


def printable(text: str) -> str:
    """Escape unprintable characters: a file name may contain newlines or terminal escape sequences."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _run_and_flush(function: Callable[[], Optional[int]]) -> int:
    """Run the function, then flush stdout, so that a write error is reported like any other."""
    status: object
    try:
        status = function()
    except SystemExit as done:
        if isinstance(done.code, str):
            raise OperatorError(done.code) from None
        status = done.code
    if sys.stdout is not None:
        sys.stdout.flush()
    return status if isinstance(status, int) else 0


def _drop_stdout() -> None:
    """Discard buffered output; otherwise the interpreter reports a write error when it exits."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


class _Option(NamedTuple):
    short: str
    long: str
    takes_value: bool


_OPTION_LINE = re.compile(r"^ +(?:(-\w)(?: [^\s,]+)?, )?(--[\w-]+)(?:[ =](\S+))?(?:  |$)", re.MULTILINE)


def _options(doc: str) -> list[_Option]:
    return [_Option(short, long, bool(value)) for short, long, value in _OPTION_LINE.findall(doc)]


def _split_values(doc: str, argv: Sequence[str]) -> list[str]:
    """Return the arguments with `-i=FILE`, which the original's parser accepts, as `-i FILE`."""
    options = {option.short: option for option in _options(doc) if option.short}
    words: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        option = options.get(token[:2])
        if token == "--":
            words += [token, *tokens]
        elif option is not None and option.takes_value and token[2:3] == "=":
            words += [token[:2], token[3:]]
        else:
            words.append(token)
            if _awaits_value(token, _options(doc)):
                words += [value for value in [next(tokens, None)] if value is not None]
    return words


def _awaits_value(token: str, options: list[_Option]) -> bool:
    """Return whether the next token is the value of the option in this one."""
    if not token.startswith("-") or token == "-":
        return False
    _, matches = _find(token, options)
    if len(matches) != 1 or not matches[0].takes_value:
        return False
    return token == matches[0].short or (token.startswith("--") and "=" not in token)


def _docopt_message(error: DocoptExit) -> str:
    """Return docopt's own message, unless it is about docopt's internals."""
    message = str(error.code).replace(error.usage.strip(), "").strip()
    return "" if message.startswith("Warning:") else message


def _explain(doc: str, usage: str, argv: Sequence[str], options_first: bool) -> str:
    """Return why the arguments do not match the usage, if docopt has no message."""
    options = _options(doc)
    given: list[str] = []
    arguments: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        if token == "--" or (options_first and not token.startswith("-")):
            arguments += [token, *tokens]
        elif token.startswith("-") and token != "-":
            name, matches = _find(token, options)
            word = token.partition("=")[0]
            if f"-{word}" in [option.long for option in options]:
                return f"unknown option {word}; did you mean -{word}?"
            if not matches:
                suggestion = did_you_mean(token.partition("=")[0], [option.long for option in options])
                return f"unknown option {name}{suggestion}"
            if len(matches) > 1:
                return f"{name} is ambiguous: use {' or '.join(option.long for option in matches)}"
            given.append(matches[0].long)
            if _awaits_value(token, options):
                next(tokens, None)
        else:
            arguments.append(token)
    return _mismatch(usage, given, arguments)


def _find(token: str, options: list[_Option]) -> tuple[str, list[_Option]]:
    """Return the option name in a token, and the options that it can stand for."""
    if not token.startswith("--"):
        return token[:2], [option for option in options if option.short == token[:2]]
    name = token.partition("=")[0]
    exact = [option for option in options if option.long == name]
    return name, exact or [option for option in options if option.long.startswith(name)]


def _mismatch(usage: str, given: list[str], arguments: list[str]) -> str:
    """Return the first difference between the arguments and the usage line that is most like them."""
    lines = usage.partition(":")[2].strip().splitlines()
    pattern = max(lines, key=lambda line: len({*line.split()} & {*arguments, *given}))
    repeatable = re.findall(r"(--[\w-]+)[^-]*?\.\.\.", pattern)
    repeated = [name for name in given if given.count(name) > 1 and name not in repeatable]
    if repeated:
        return f"{repeated[0]} is given more than once"
    required = re.sub(r"\[.*?\]", "", pattern)
    missing = [name for name in re.findall(r"--[\w-]+", required) if name not in given]
    words = pattern.split()
    others = [word for word in arguments if word not in words]
    missing += re.findall(r"<[\w-]+>", required)[len(others) :]
    if missing:
        *others, last = missing
        return f"{', '.join(others)} and {last} are missing" if others else f"{last} is missing"
    stray = others[len(re.findall(r"<[\w-]+>", pattern)) :]
    if stray:
        return f"unexpected argument {stray[0]!r}"
    return "the arguments do not match the usage"
