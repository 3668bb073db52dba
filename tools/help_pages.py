"""Read the scripts' help pages, from which the man pages and completions are made.

A page has a summary, paragraphs, literal lines and lists. A list has terms and descriptions in two columns.
The first line of a block may be its title, which ends with a colon.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent

_ENTRY = re.compile(r"^  (\S+(?: \S+)*)(?:  +(.*))?$")
_OPTION = re.compile(r"(?:(-\w)(?: (\S+))?, )?(--[\w-]+)(?: (\S+))?|(-\w)")


class Entry(NamedTuple):
    """A row of a list: a term, such as "-o FILE, --output FILE", and its description."""

    term: str
    text: str


class Option(NamedTuple):
    """An option: its names, what its value is called (empty if it has none), and its description."""

    names: tuple[str, ...]
    value: str
    text: str
    repeatable: bool


@dataclass(frozen=True)
class Block:
    """The lines between two empty lines: a list, literal lines, or a paragraph (the only one in `lines`)."""

    title: str = ""
    lines: tuple[str, ...] = ()
    literal: bool = False
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Page:
    """The help page of a script, or of one of its commands."""

    summary: str
    usage: tuple[str, ...]
    blocks: tuple[Block, ...]
    commands: dict[str, Optional[Page]] = field(default_factory=dict)
    """By name, the page of each command; None if it has none of its own."""

    def options(self) -> Iterator[Option]:
        """Yield the options in all lists of the page."""
        usage = " ".join(self.usage)
        for entry in (entry for block in self.blocks for entry in block.entries):
            found = _OPTION.fullmatch(entry.term)
            if found is not None:
                short, short_value, long, value, only = found.groups()
                names = tuple(name for name in (short, long, only) if name)
                repeatable = re.search(rf"{names[-1]} [^-]*\.\.\.", usage) is not None
                yield Option(names, value or short_value or "", entry.text, repeatable)

    def descriptions(self) -> dict[str, str]:
        """Return what the page says of each command, by name."""
        listed = (entry for block in self.blocks if block.title == "Commands" for entry in block.entries)
        return {**dict.fromkeys(self.commands, ""), **dict(listed)}


def scripts() -> list[str]:
    """Return the names of the scripts, without .py."""
    return sorted(path.stem for path in ROOT.glob("st*.py"))


def read_page(script: str) -> Page:
    """Return the help page of a script, with the pages of its commands."""
    page = parse_page(_help(script, "--help"))
    listed = [entry.term for block in page.blocks if block.title == "Commands" for entry in block.entries]
    if listed:
        own = [name for name in listed if name != "help"]
        page.commands.update({name: parse_page(_help(script, name, "--help")) for name in own})
        page.commands["help"] = None
    else:
        words = [re.match(rf"{script} ([a-z][a-z-]*)", line) for line in page.usage]
        page.commands.update({found[1]: None for found in words if found})
    return page


def parse_page(text: str) -> Page:
    """Return the parts of a page."""
    summary, _, rest = text.strip("\n").partition("\n")
    usage: tuple[str, ...] = ()
    blocks: list[Block] = []
    for chunk in re.split(r"\n\s*\n", rest.strip("\n")):
        lines = chunk.split("\n")
        if lines[0] == "Usage:":
            usage = tuple(line.strip() for line in lines[1:])
        else:
            blocks += _parse_blocks(lines)
    return Page(summary, usage, tuple(blocks))


def _help(script: str, *arguments: str) -> str:
    """Return what an installed script prints."""
    program = f"import sys; sys.argv[0] = {script!r}; import {script}; sys.exit({script}.main())"
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def _parse_blocks(lines: list[str]) -> Iterator[Block]:
    """Yield the blocks in the lines between two empty lines: a title or paragraph, then what is indented."""
    text = [line for line in lines if not line.startswith("  ")]
    indented = lines[len(text) :]
    title = ""
    if len(text) == 1 and indented and text[0].endswith(":"):
        title = text[0][:-1]
    elif text:
        yield Block(lines=(" ".join(text),))
    if indented and _is_list(indented):
        yield Block(title, entries=tuple(_parse_entries(indented)))
    elif indented:
        yield Block(title, lines=tuple(line[2:] for line in indented), literal=True)


def _is_list(lines: list[str]) -> bool:
    """Return whether these lines are a list: its terms are options, names or <arguments>."""
    first = _ENTRY.match(lines[0])
    return first is not None and first[2] is not None and "$" not in lines[0]


def _parse_entries(lines: list[str]) -> Iterator[Entry]:
    term, text = "", ""
    for line in lines:
        found = _ENTRY.match(line)
        if found is None:
            text += " " + line.strip()
            continue
        if term:
            yield Entry(term, text.strip())
        term, text = found[1], found[2] or ""
    yield Entry(term, text.strip())
