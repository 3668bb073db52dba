"""The access file: which keys may listen and connect, and which keys and addresses are denied.

    # Only these may listen.
    listen  KEY NAME
    connect KEY NAME
    deny    KEY
    deny    ADDRESS/PREFIX

If any line says who may listen, nobody else may; likewise for connect. `deny` overrides both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Optional

from offset_common.constants import PUBLIC_KEY_SIZE
from offset_common.errors import FileError, UsageError, quote
from offset_common.files import AnyPath, read_file
from offset_common.identity import decode_key, short_key
from offset_common.networks import Network, NetworkSet, parse_network

MAX_ACCESS_FILE_SIZE = 4 * 2**20  # bytes: about 60,000 lines with a key
MAX_NAME_SIZE = 64  # characters
VERBS = ("listen", "connect", "deny")

_COMMENT = re.compile(r"(?:^|\s)#.*")
_LINE_END = re.compile("\r\n?|\n")  # str.splitlines knows more, which no editor counts as lines
_SEPARATOR = re.compile("[\v\f\x1c-\x1e\x85\u2028\u2029]")  # some programs show them as the end of a line
_KEY_TEXT = re.compile(r"[A-Za-z0-9_+-]{20,}=*")


class AccessRules(NamedTuple):
    """The rules of an access file.

    Args:
        listen: names by the keys that may listen; empty if every key may.
        connect: names by the keys that may connect; empty if every key may.
        denied_keys: keys that may do nothing.
        denied_networks: addresses that may not connect at all.
    """

    listen: Mapping[bytes, str] = MappingProxyType({})
    connect: Mapping[bytes, str] = MappingProxyType({})
    denied_keys: frozenset[bytes] = frozenset()
    denied_networks: NetworkSet = NetworkSet()

    def name_of(self, key: bytes) -> Optional[str]:
        """Return the name that the file gives a key, or None."""
        return self.listen.get(key) or self.connect.get(key)

    def may_listen(self, key: bytes) -> bool:
        """Return whether the key may listen, and accept connects."""
        return key not in self.denied_keys and (not self.listen or key in self.listen)

    def may_connect(self, key: bytes) -> bool:
        """Return whether the key may connect to listeners."""
        return key not in self.denied_keys and (not self.connect or key in self.connect)


def load_access(path: AnyPath) -> AccessRules:
    """Read an access file.

    Raises:
        FileError: the file cannot be read, or a line has a mistake; the reason begins with its number.
    """
    text = read_file(path, MAX_ACCESS_FILE_SIZE)
    parser = _Parser()
    for number, line in enumerate(_LINE_END.split(text), 1):
        try:
            parser.take(_COMMENT.sub("", line), number)
        except UsageError as error:
            raise FileError(path, f"line {number}: {error}") from None
    return parser.rules()


def describe_rules(rules: AccessRules) -> list[str]:
    """Return lines that explain the rules."""
    lines = []
    for verb, names in (("listen", rules.listen), ("connect", rules.connect)):
        if names:
            lines.append(f"{verb}: only {_count(len(names), 'key')}")
        else:
            lines.append(f"{verb}: every key, except for those denied")
    networks = _count(len(rules.denied_networks), "address or network", "addresses or networks")
    lines.append(f"deny: {_count(len(rules.denied_keys), 'key')}, {networks}")
    for key in sorted(rules.denied_keys):
        name = rules.name_of(key)
        if name is not None:
            lines.append(f"note: {short_key(key)} ({name}) is allowed and denied; deny overrides")
    return lines


class _Parser:
    """Collects the rules, line by line."""

    def __init__(self) -> None:
        self._names: dict[str, dict[bytes, str]] = {"listen": {}, "connect": {}}
        self._lines: dict[tuple[str, bytes], int] = {}
        self._denied_keys: set[bytes] = set()
        self._networks: list[Network] = []

    def take(self, line: str, number: int) -> None:
        """Parse a line without its comment.

        Raises:
            UsageError: it has a mistake.
        """
        verb, *words = line.split(None, 2) or [""]
        if not verb:
            return
        if _SEPARATOR.search(line.strip()):
            raise UsageError("it contains a page break or an unusual line separator; use a line break")
        if verb not in VERBS:
            raise UsageError(f"unknown word {quote(verb)}; a line begins with listen, connect or deny")
        if not words:
            what = "key or address" if verb == "deny" else "key"
            raise UsageError(f"the {what} after {verb} is missing")
        if verb == "deny":
            self._deny(*words)
        else:
            self._allow(verb, words, number)

    def rules(self) -> AccessRules:
        """Return all rules."""
        return AccessRules(
            self._names["listen"],
            self._names["connect"],
            frozenset(self._denied_keys),
            NetworkSet(self._networks),
        )

    def _allow(self, verb: str, words: list[str], number: int) -> None:
        key = decode_key(words[0], PUBLIC_KEY_SIZE)
        if len(words) == 1:
            raise UsageError(f"the name is missing; write {verb} KEY NAME")
        name = " ".join(words[1].split())
        if len(name) > MAX_NAME_SIZE:
            raise UsageError(f"the name has {len(name)} characters; at most {MAX_NAME_SIZE} are allowed")
        if not name.isprintable():
            raise UsageError("the name has a control character; remove it")
        before = self._names[verb].get(key)
        if before not in (None, name):
            line = self._lines[verb, key]
            raise UsageError(f"line {line} gives this key another name, {before!r}; remove one of them")
        self._names[verb][key] = name
        self._lines.setdefault((verb, key), number)

    def _deny(self, word: str, rest: str = "") -> None:
        if rest:
            raise UsageError(f"unexpected {quote(rest)} at the end; write it as a comment, after #")
        if _KEY_TEXT.fullmatch(word):
            self._denied_keys.add(decode_key(word, PUBLIC_KEY_SIZE))
            return
        if not {".", ":"} & set(word):
            raise UsageError(f"{quote(word)} is neither a key nor an address; keys have 43 characters")
        self._networks.append(parse_network(word))


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
