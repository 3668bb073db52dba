"""Every program of the page prints what the page says."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from html.parser import HTMLParser


class Programs(HTMLParser):
    """Collects the programs of a page, each with the output that the page promises."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self._output: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "pre" and values.get("class") == "program":
            self._output = values["data-output"]
            self.found.append(("", self._output or ""))

    def handle_data(self, data: str) -> None:
        if self._output is not None:
            program, output = self.found[-1]
            self.found[-1] = (program + data, output)

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._output = None


def test_every_program_prints_the_value_of_its_step(page: str) -> None:
    programs = Programs(page).found
    for program, promised in programs:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(program, "program", "exec"), {})
        assert printed.getvalue() == promised + "\n", program
        assert len(program.splitlines()) <= 10
        assert "offset_common" not in program
    kinds = Counter(name for program, _ in programs for name in KINDS if name in program)
    # Three connections and two ends of the tunnel; 16 encrypted frames, 4 with another message inside.
    assert kinds == {"X25519": 10, "Ed25519": 10, "HKDF": 10, "ChaCha20Poly1305": 21, "packed": 1}


KINDS = ("X25519", "Ed25519", "HKDF", "ChaCha20Poly1305", "packed")
