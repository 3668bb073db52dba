"""The file `peers`: which keys may connect, and which may not. Users may read and edit it.

    allow KEY NAME
    deny KEY NAME

The first line with a key counts. The name is for people, and may be missing. Empty lines and lines that begin
with # are ignored. The file is read again for every caller.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Optional

from offset_common.constants import PUBLIC_KEY_SIZE
from offset_common.errors import FileError, UsageError
from offset_common.forward.config_directory import ConfigDirectory
from offset_common.forward.messages import is_name
from offset_common.identity import decode_key, encode_key

FILE = "peers"
_HEADING = (
    "# Which keys may use what this machine shares with stforward, and which may not:\n"
    "# allow KEY NAME\n"
    "# deny KEY NAME\n"
)


class Rule(enum.Enum):
    """The first word of a line."""

    ALLOW = "allow"
    DENY = "deny"


class Peer(NamedTuple):
    """One line.

    Args:
        rule: whether the key may connect.
        public_key: 32 bytes.
        name: its name for people, or an empty string.
    """

    rule: Rule
    public_key: bytes
    name: str

    def __str__(self) -> str:
        return f"{self.rule.value} {encode_key(self.public_key)} {self.name}".rstrip()


class Peers:
    """The file.

    Args:
        directory: the directory that contains it.
    """

    def __init__(self, directory: ConfigDirectory) -> None:
        self._directory = directory
        self.path = directory.path / FILE

    def load(self) -> list[Peer]:
        """Return all lines.

        Raises:
            FileError: the file cannot be read, or a line is invalid.
        """
        found = []
        for number, line in enumerate(self._directory.read(FILE).splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    found.append(_parse(line.split()))
                except UsageError as error:
                    raise FileError(self.path, f"line {number}: {error}") from None
        return found

    def find(self, public_key: bytes) -> Optional[Peer]:
        """Return the first line with a key; raise FileError as `load` does."""
        return next((peer for peer in self.load() if peer.public_key == public_key), None)

    def add(self, rule: Rule, public_key: bytes, name: str) -> None:
        """Append a line; raise FileError if the file cannot be written."""
        with self._directory.changing(FILE):
            before = self._directory.read(FILE) or _HEADING
            if not before.endswith("\n"):
                before += "\n"
            self._directory.write(FILE, f"{before}{Peer(rule, public_key, name)}\n")


def _parse(words: list[str]) -> Peer:
    rules = {rule.value: rule for rule in Rule}
    if words[0] not in rules:
        raise UsageError(f"it begins with {words[0][:20]!r}; write allow or deny")
    if len(words) < 2:
        raise UsageError("it has no key; write one after the first word")
    name = words[2] if len(words) > 2 else ""
    if len(words) > 3 or (name and not is_name(name)):
        raise UsageError("its name is invalid; write one word of up to 32 letters, digits, '.', '_' or '-'")
    return Peer(rules[words[0]], decode_key(words[1], PUBLIC_KEY_SIZE), name)
