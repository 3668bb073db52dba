"""The command lines in the documents, and a directory in which to run them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from offset_common.identity import Identity, encode_key, save_identity
from offset_common.tickets import RelayTicket

ROOT = Path(__file__).resolve().parent.parent
_INSTALL = (ROOT / "docs/install.md").read_text("utf-8")
_TUTORIAL = (ROOT / "docs/first-relay.md").read_text("utf-8")
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
)

_PROGRAMS = (
    r"make|python3?|\.venv/bin/\w+|pytest|bash|sh|pip|pipx|uv|apt-get|sudo|mkdir|rm|mv|cp|ssh|scp|kill|"
    r"systemctl|journalctl|setpriv|ulimit|sysctl|docker|podman|git|curl|strelay|stmgr|stforward"
)
_COMMAND = re.compile(rf"(?:[A-Z]+=\S+ )*(?:{_PROGRAMS})(?: .*)?")
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

OWNERS_COMMANDS = re.findall(r"^    (mkdir relay|python3 st(?:mgr|relay)\.py .*)$", _INSTALL, re.MULTILINE)
"""Commands that make and start a relay by hand."""
INSTALL_COMMANDS = re.findall(r"^((?:mkdir|cp) .*/(?:opt|etc)/.*)$", _INSTALL, re.MULTILINE)
"""Commands that install the files of the service."""
TUTORIAL_COMMANDS = re.findall(r"^(\.venv/bin/python .*)$", _TUTORIAL, re.MULTILINE)
"""Commands of the first tutorial, beside `make run`."""
_PROGRAMS_PAGE = (ROOT / "docs/programs.md").read_text("utf-8")
PROGRAM_COMMANDS = re.findall(
    r"^    (mkdir inbox|\.venv/bin/python examples/.*)$", _PROGRAMS_PAGE, re.MULTILINE
)
"""Commands that run the programs to copy."""
FAIL2BAN_COMMANDS = re.findall(
    r"^(cp deploy/fail2ban/.*)$", (ROOT / "docs/logs.md").read_text("utf-8"), re.MULTILINE
)
"""Commands that install the files for fail2ban."""
_MAINTENANCE = (ROOT / "docs/maintenance.md").read_text("utf-8")
BACKUP_COMMANDS = re.findall(r"^(?: {4}|`)((?:python3 -c|sqlite3) .*?)(?:`.*)?$", _MAINTENANCE, re.MULTILINE)
"""Commands that copy a usage file."""
ROTATION_COMMANDS = re.findall(r"^ +(python3 st(?:mgr|relay)\.py .*)$", _MAINTENANCE, re.MULTILINE)
"""Commands that start a relay with a new identity."""
SECOND_UNIT_COMMANDS = re.findall(r"^((?:cp|sed) .*)$", _MAINTENANCE, re.MULTILINE)
"""Commands that make it a service: two for a clone, then three for the Debian package."""
UNIT = ROOT / "deploy" / "offset-relay.service"
"""The unit file for systemd."""


def _code(text: str) -> Iterator[str]:
    """Yield the lines of a document that are code, and the code within its sentences."""
    for _, language, block in _FENCE.findall(text):
        if language == "sh":
            yield from block.splitlines()
    text = _FENCE.sub("", text)
    for line in text.splitlines():
        if line.startswith("    "):
            yield line
        else:
            yield from re.findall(r"`([^`]+)`", line)


def blocks(name: str, language: str) -> list[str]:
    """Return the code blocks of a language in a document of docs/, without the indentation of fences."""
    found = _FENCE.findall((ROOT / "docs" / name).read_text("utf-8"))
    return [
        re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)
        for indent, each, block in found
        if each == language
    ]


def command_lines() -> list[str]:
    """Return every command line of the documents once, without comments."""
    found = []
    for document in DOCUMENTS:
        for line in _code((ROOT / document).read_text("utf-8")):
            command = re.split(r"\s{2,}|\s+# |\s+&$", line.strip().removeprefix("$ "))[0]
            if _COMMAND.fullmatch(command) and " " in command:
                found.append(command)
    return list(dict.fromkeys(found))


def environment() -> dict[str, str]:
    """Return an environment with the `python3` that runs the tests, in which the project can be imported."""
    here = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": here + os.pathsep + os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


def make_files(clone: Path, ticket: RelayTicket, *names: str) -> dict[str, str]:
    """Write the files that documented commands use: the ticket of a relay, and identities with these names.

    Returns: the public keys of the identities as text.
    """
    (clone / "relay").mkdir(exist_ok=True)
    ticket.save(clone / "relay/relay.relay")
    identities = {name: Identity.generate() for name in names}
    for name, identity in identities.items():
        save_identity(identity, clone / f"{name}.ident")
    return {name: encode_key(identity.public_key) for name, identity in identities.items()}


def make_clone(directory: Path) -> Path:
    """Make `directory` look like a fresh clone, in which no documented command has run; return it."""
    made = {"relay", "inbox", ".ident", ".relay", ".html", ".png", ".db"}
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and not {path.name, path.suffix} & made:
            (directory / path.name).symlink_to(path)
    return directory
