"""The configuration file: the options of the command line as TOML, under their own names.

    laddr = "0.0.0.0:4567"
    rate = "10M"
    per-address = 500
    proxy-protocol = ["10.0.0.0/8"]

The command line overrides the file, and the file overrides the defaults.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from offset_common.command_line import did_you_mean, parse
from offset_common.errors import FileError, UsageError, quote
from offset_common.files import read_file

NOT_IN_FILES = frozenset({"--config", "--check", "--help", "--version"})
REQUIRED = ("--idfile", "--laddr")

Arguments = dict[str, Any]

_OPTION = re.compile(r"^  (?:-\w(?: \S+)?, )?(--[\w-]+)", re.MULTILINE)
_DEFAULT = re.compile(r"\s+\[default: ([^\]]*)\]")


class ConfiguredArguments:
    """The arguments of a command line that has --config.

    Args:
        page: the help page, which is the grammar of the command line.
        argv: the command line, without the program name.
        version: what --version prints.
        required: options that must be on the command line or in the file.

    Raises:
        CommandLineError: the command line does not match the page.
    """

    def __init__(
        self, page: str, argv: Sequence[str], version: str, required: Sequence[str] = REQUIRED
    ) -> None:
        self._required = required
        self._defaults = _defaults(page)
        self._given = parse(_DEFAULT.sub("", page), argv, version)
        self._path: str = self._given["--config"]

    def read(self) -> Arguments:
        """Read the file; return the values by option name, as docopt returns them.

        Raises:
            FileError: the file cannot be read, or has an unknown option or a value of the wrong type.
            UsageError: a required option is missing from both.
        """
        configured = load_config(self._path, self._given)
        arguments = {
            name: value or configured.get(name, self._defaults.get(name, value))
            for name, value in self._given.items()
        }
        for name in self._required:
            if not arguments[name]:
                raise UsageError(f"{name} is missing; give it on the command line or in {self._path}")
        return arguments


def load_config(path: str, options: Mapping[str, Any]) -> Arguments:
    """Return the values in a configuration file, by option name.

    Args:
        path: the file.
        options: a value of each option's type, by name: a list if it may be given several times.

    Raises:
        FileError: the file cannot be read, or has an unknown option or a value of the wrong type.
    """
    loads = _toml_parser(path)
    try:
        values = loads(read_file(path))
    except RecursionError:
        raise FileError(path, "its values are nested too deeply; write one value for each option") from None
    except ValueError as error:
        advice = 'write each option as NAME = VALUE, and text in quotes, as in laddr = "0.0.0.0:4567"'
        raise FileError(path, f"not valid TOML: {error}; {advice}") from None
    known = sorted(name for name in options if name.startswith("--") and name not in NOT_IN_FILES)
    arguments: Arguments = {}
    for key, value in values.items():
        name = f"--{key}"
        if isinstance(value, dict):
            raise FileError(path, f"{quote(key)} is a section; write the options without sections")
        if name not in known:
            suggestion = did_you_mean(key, [each[2:] for each in known])
            raise FileError(path, f"unknown option {quote(key)}{suggestion}")
        arguments[name] = _read_value(path, key, value, options[name])
    return arguments


def _read_value(path: str, key: str, value: object, sample: object) -> object:
    """Return a value in the form that the command line has."""
    if isinstance(sample, list):
        values = value if isinstance(value, list) else [value]
        return [_read_text(path, key, each) for each in values]
    return _read_text(path, key, value)


def _read_text(path: str, key: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        kind = "true or false" if isinstance(value, bool) else f"a {type(value).__name__}"
        raise FileError(path, f"{key} must be a string or a number, not {kind}")
    try:
        text = str(value)
    except ValueError:  # Python refuses to write thousands of digits
        raise FileError(path, f"{key} is a number with too many digits") from None
    if not text:
        raise FileError(path, f"{key} is empty; give it a value, or leave it out")
    return text


def _toml_parser(path: str) -> Callable[[str], dict[str, Any]]:
    for name in ("tomllib", "tomli"):  # in the standard library as of Python 3.11
        try:
            loads: Callable[[str], dict[str, Any]] = importlib.import_module(name).loads
        except ImportError:
            continue
        return loads
    advice = "install tomli with .venv/bin/pip install tomli, or with apt-get install python3-tomli"
    raise FileError(path, f"this Python is older than 3.11 and cannot read TOML by itself; {advice}")


def _defaults(page: str) -> dict[str, str]:
    """Return the defaults in a help page, by option name."""
    starts = [*_OPTION.finditer(page)]
    ends = [*(found.start() for found in starts[1:]), len(page)]
    blocks = {found[1]: page[found.start() : end] for found, end in zip(starts, ends)}
    defaults = {name: _DEFAULT.search(block) for name, block in blocks.items()}
    return {name: found[1] for name, found in defaults.items() if found is not None}
