"""Check the words of documents, help pages and docstrings: `python -m tools.prose`.

It is only the floor under good English. It reports the words that tools/vocabulary.txt advises against, and
sentences that begin with "who", "what" or "whoever" and are not questions.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

_CODE = re.compile(
    r"^( *)```.*?^\1```$|^(?: {4}|\t)(?! *(?:\*|\d+\.) ).*$|`[^`\n]*`|<[^>\n]+>", re.MULTILINE | re.DOTALL
)
_BEGINNING = re.compile(
    r"(?:^(?:\* |\d+\. |: +)?|[a-z)`][.!?:] )((?:Who|What|Whoever|Whatever)\b[^.?!]*[.?!])", re.MULTILINE
)


class Fault(NamedTuple):
    """Something that should be written differently."""

    path: str
    line: int
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text!r}: {self.advice}"


def main() -> int:
    """Report all faults; return the exit status."""
    found = list(faults())
    for fault in found:
        print(fault)
    return 1 if found else 0


def faults() -> Iterator[Fault]:
    """Yield the faults in all documents and in the docstrings of all programs, help pages among them."""
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]):
        yield from check(_name(path), _CODE.sub(_blank, path.read_text("utf-8")))
    programs = [*ROOT.glob("*.py"), *ROOT.glob("examples/*.py"), *ROOT.glob("tools/*.py")]
    for path in sorted([*programs, *ROOT.glob("offset_common/**/*.py")]):
        for line, text in _docstrings(path.read_text("utf-8")):
            yield from check(_name(path), text, line)


def check(path: str, text: str, first_line: int = 1) -> Iterator[Fault]:
    """Yield the faults in a text.

    Args:
        path: the name of the file, for the report.
        text: without code.
        first_line: the number of its first line in the file.
    """
    for pattern, advice in (*_vocabulary(), (_BEGINNING, "begin with the subject")):
        for found in pattern.finditer(text):
            words = " ".join(found[0].split())
            if not words.endswith("?"):
                start = found.start(found.lastindex or 0)
                yield Fault(path, first_line + text.count("\n", 0, start), words[:60], advice)


@cache
def _vocabulary() -> list[tuple[re.Pattern[str], str]]:
    lines = (ROOT / "tools/vocabulary.txt").read_text("utf-8").splitlines()
    pairs = [line.split(" = ") for line in lines if line and not line.startswith("#")]
    return [(re.compile(rf"\b(?:{pattern})", re.IGNORECASE), f"write: {advice}") for pattern, advice in pairs]


def _docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a program, with the numbers of their first lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                yield node.lineno, re.sub(r"`[^`\n]*`", "`", text)


def _blank(found: re.Match[str]) -> str:
    """Return a code mark with the same number of lines."""
    return "`" + "\n" * found[0].count("\n")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


if __name__ == "__main__":
    sys.exit(main())
