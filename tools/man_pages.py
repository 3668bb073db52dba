"""Write a script's help page as a man page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

from tools.help_pages import Block, Page

FIRST, LAST = ("Description", "Commands", "Options"), ("Examples",)
"""Sections with a fixed place; the others follow in the order of the help page."""


def man_page(name: str, page: Page, others: list[str], version: str, date: datetime) -> str:
    """Return the man page of a script.

    Args:
        name: of the script.
        page: its help page.
        others: the scripts to name under "see also".
        version: of the package.
        date: of the package.
    """
    day = date.astimezone(timezone.utc).strftime("%Y-%m-%d")
    summary = page.summary[:1].lower() + page.summary[1:].rstrip(".")
    lines = [
        f'.TH {name.upper()} 1 "{day}" "offset-relay {version}" "User Commands"',
        *(".SH NAME", f"{name} \\- {_escape(summary)}"),
        *(".SH SYNOPSIS", *_usage(page.usage)),
    ]
    sections = _sections(page.blocks)
    between = [title for title in sections if title not in FIRST + LAST]
    for title in [*FIRST, *between]:
        lines += sections.get(title, [])
    for command, own in page.commands.items():
        if own is not None:
            lines += _command(f"{name} {command}", own)
    lines += sections.get("Examples", [])
    lines += [".SH SEE ALSO", ",\n".join(f"\\fB{other}\\fR(1)" for other in others)]
    return "\n".join(lines) + "\n"


def _sections(blocks: Iterable[Block]) -> dict[str, list[str]]:
    """Return the lines of each section, by its title."""
    sections: dict[str, list[str]] = {}
    for block in blocks:
        title, _, note = block.title.partition("; ")
        if "example" in title.lower() or (block.literal and title):
            title, note = "Examples", "" if "example" in title.lower() else f"{title}:"
        elif note:
            note += "."
        elif not title:
            options = bool(block.entries) and block.entries[0].term.startswith("-")
            title = "Options" if options else "Description"
        if title not in sections:
            sections[title] = [f'.SH "{_escape(title.upper())}"']
        if note:
            sections[title].append(_escape(note[:1].upper() + note[1:]))
        lines = [*_block(block)]
        if len(sections[title]) == 1 and lines[0] == ".PP":
            del lines[0]  # a section begins with a paragraph by itself
        sections[title] += lines
    return sections


def _command(name: str, page: Page) -> Iterator[str]:
    """Yield the page of a command, without the options that all commands have."""
    yield from (f'.SH "{_escape(name.upper())}"', *_usage(page.usage), ".PP", _escape(page.summary))
    for block in page.blocks:
        if block.title != "Common options":
            yield from _block(block)


def _block(block: Block) -> Iterator[str]:
    if block.entries:
        for entry in block.entries:
            yield from (".TP", _term(entry.term), _escape(entry.text))
    elif block.literal:
        yield from (".PP", ".in +4n", ".nf", *(_escape(line) for line in block.lines), ".fi", ".in")
    else:
        yield from (".PP", *(_escape(line) for line in block.lines))


def _usage(lines: Iterable[str]) -> Iterator[str]:
    yield ".nf"
    for line in lines:
        name, _, rest = line.partition(" ")
        yield f"\\fB{_escape(name)}\\fR {_escape(rest)}"
    yield ".fi"


def _term(term: str) -> str:
    """Return a term with its options and commands in bold, and the names of values in italics."""

    def in_font(found: re.Match[str]) -> str:
        word = found[0]
        font = "B" if word.startswith("-") or re.fullmatch(r"[a-z-]+", word) else "I"
        return f"\\f{font}{_escape(word)}\\fR"

    return re.sub(r"[^\s,]+", in_font, term)


def _escape(text: str) -> str:
    """Escape what troff would interpret, and set `code` in bold. Hyphens stay hyphens that can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    return "\\&" + text if text.startswith((".", "'")) else text
