"""Write a script's help page as a page of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator

from offset_common.policy.config import NOT_IN_FILES
from tools.help_pages import Block, Option, Page

_DEFAULT = re.compile(r"\s*\[default: ([^\]]*)\]")


def command_line(name: str, page: Page) -> str:
    """Return the page of a script.

    Args:
        name: of the script.
        page: its help page.
    """
    lines = [f"# {name}", "", f"This page is made from `{name} --help`.", "", *_body(page, "##")]
    for command, own in page.commands.items():
        if own is not None:
            lines += [f"## {name} {command}", "", *_body(own, "###")]
    return "\n".join(lines) + "\n"


def configuration(page: Page) -> str:
    """Return the page about the options of a configuration file.

    Args:
        page: the help page of strelay.
    """
    lines = [
        "# The configuration file",
        "",
        "`strelay --config FILE` reads its options from a TOML file, under the names that they have on the",
        "command line, without the dashes. "
        "[Running a relay](operations.md#keep-the-options-in-a-file-config-file) explains how the file, the",
        "command line and SIGHUP work together. This page is made from `strelay --help`.",
        "",
        "| name | value | default | meaning |",
        "|---|---|---|---|",
    ]
    for option in page.options():
        if option.names[-1] not in NOT_IN_FILES:
            lines.append(_row(option))
    return "\n".join(lines) + "\n"


def _row(option: Option) -> str:
    default = _DEFAULT.search(option.text)
    value = f"`{option.value}`" if option.value else "true or false"
    if option.repeatable:
        value += ", or a list"
    text = _escape(_DEFAULT.sub("", option.text))
    cells = [f"`{option.names[-1][2:]}`", value, f"`{default[1]}`" if default else "", text]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _body(page: Page, level: str) -> Iterator[str]:
    """Yield the lines of a page without its title."""
    yield from (_escape(page.summary), "", "```text", *page.usage, "```", "")
    for block in page.blocks:
        if block.title == "Common options":
            continue
        title, *notes = re.split(r" \(|\)?; |\)$", block.title)
        if title:
            yield from (f"{level} {_escape(title)}", "")
        if any(notes):
            sentences = [
                f"See {note}." if note.startswith("docs/") else f"{note[0].upper()}{note[1:]}."
                for note in notes
                if note
            ]
            yield from (_link(" ".join(sentences)), "")
        yield from _block(block)
        yield ""


def _block(block: Block) -> Iterator[str]:
    if block.entries:
        for entry in block.entries:
            yield from (f"`{entry.term}`", f":   {_link(_escape(entry.text))}", "")
    elif block.literal:
        yield from ("```text", *block.lines, "```")
    else:
        yield from (_link(_escape(line)) for line in block.lines)


def _link(text: str) -> str:
    """Turn the names of documents into links."""
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text)


def _escape(text: str) -> str:
    """Escape what Markdown would interpret, except for `code`."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([<>*_\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)
