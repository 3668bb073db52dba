"""Print a relay check with every frame, dissected and explained."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Callable

from offset_common.channel.secure_channel import Observer
from offset_common.tools.address_check import AddressResult
from offset_common.tools.dissector import Part, Section, dissect
from offset_common.tools.failures import outcome_lines
from offset_common.tools.frame_assembler import OPENING, SENT, Frame, FrameAssembler
from offset_common.tools.meanings import meaning_of
from offset_common.tools.relay_check import RelayCheck, StepDone
from offset_common.tools.terminal import Style, styled, wrap

BYTES_PER_LINE = (16, 8, 4)  # the first that fits
SHORTENED = {"ciphertext", "randPadding"}  # random bytes: only the first and last line are shown
NAME_WIDTH = 18
TEXT_WIDTH = 108  # columns, at most
MIN_WIDTH = 40  # columns; a narrower terminal wraps the lines itself
MAX_INDENT = 10  # columns, of the parts of the innermost layer
SETTLE_TIMEOUT = 5.0  # seconds


class TraceWatcher:
    """Print each step and each frame as it happens.

    Args:
        write: called with each line.
        colour: use colours.
        short: after the first connection, print only the names of the opening frames.
        width: the maximum width of a line, in columns.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        colour: bool = False,
        short: bool = False,
        width: int = TEXT_WIDTH,
    ) -> None:
        self._write = write
        self._width = width
        self._colour = colour
        self._short = short
        self._first_connection = ""
        self._count = 0
        # Each connection has a thread. The lock keeps the lines of a frame together.
        self._changed = threading.Condition()
        self._assemblers: list[FrameAssembler] = []

    def step_started(self, step: str, timeout: float) -> None:
        """Print the heading of a step."""
        with self._changed:
            self._write(styled(f"== {step}", Style.HEADING, self._colour))
            self._write("")

    def step_done(self, step: StepDone) -> None:
        """Wait until the frames of the step have been sent, so that they appear under its heading."""
        with self._changed:
            self._changed.wait_for(lambda: all(each.settled for each in self._assemblers), SETTLE_TIMEOUT)
            if step.detail:
                self._write_wrapped(f"-- {step.detail}")
                self._write("")

    def addresses_checked(self, results: Sequence[AddressResult]) -> None:
        """Print the reason for each address that does not work; these connections are not traced."""
        with self._changed:
            for each in results:
                if each.failure is not None:
                    self._write_wrapped(f"-- {each.failure.reason}")

    def observer(self, connection: str) -> Observer:
        """Return an observer that prints the frames of a connection."""
        assembler = FrameAssembler(connection, self._print)

        def observe(direction: str, value: object) -> None:
            with self._changed:
                assembler.observe(direction, value)
                self._changed.notify_all()

        with self._changed:
            self._assemblers.append(assembler)
        return observe

    def finished(self, check: RelayCheck) -> None:
        """Print an unreadable frame, if there is one, and the outcome."""
        with self._changed:
            for assembler in self._assemblers:
                assembler.finish()
            for line in outcome_lines(check.failure, self._colour):
                self._write_wrapped(line)

    def _write_wrapped(self, text: str) -> None:
        for line in wrap(text, self._width):
            self._write(line)

    def _print(self, frame: Frame) -> None:
        self._count += 1
        self._first_connection = self._first_connection or frame.connection
        repeated = frame.name in OPENING and frame.connection != self._first_connection
        lines = frame_lines(self._count, frame, self._colour, self._width)
        for line in lines[:1] if self._short and repeated else lines:
            self._write(line)
        self._write("")


def frame_lines(number: int, frame: Frame, colour: bool, width: int = TEXT_WIDTH) -> list[str]:
    """Return the lines of a frame: its heading, its meaning and its layers.

    Args:
        number: the frame's number in the trace.
        frame: with its layers.
        colour: use colours.
        width: the maximum width of a line, in columns.
    """
    width = max(width, MIN_WIDTH)
    arrow = "->" if frame.direction == SENT else "<-"
    heading = f"frame {number}: {frame.connection} {arrow} relay: {frame.name}"
    meaning = meaning_of(frame.name, frame.direction)
    explanation = wrap(f"{meaning.sentence} (section {meaning.section})", width - 2)
    lines = [styled(line, Style.HEADING, colour) for line in wrap(heading, width)]
    lines += [f"  {line}" for line in explanation]
    for depth, section in enumerate(dissect(frame)):
        lines += _section_lines(section, depth, colour, width)
    return lines


def _section_lines(section: Section, depth: int, colour: bool, width: int) -> list[str]:
    indent = "  " * (depth + 1)
    title = wrap(f"{section.title} (section {section.section})", width - len(indent))
    lines = [styled(f"{indent}{line}", Style.QUIET, colour) for line in title]
    for part in section.parts:
        lines += _part_lines(part, indent + "  ", colour, width)
    return lines


def _part_lines(part: Part, indent: str, colour: bool, width: int) -> list[str]:
    size = _bytes_per_line(width)
    rows = [part.data[at : at + size].hex(" ") for at in range(0, len(part.data), size)]
    note = part.note
    if part.name in SHORTENED:
        note = f"{len(part.data)} bytes: {note}"
        if len(rows) > 3:
            rows = [rows[0], "...", rows[-1]]
    lines = []
    for index, row in enumerate(rows or [""]):
        name = part.name if index == 0 else ""
        lines.append(f"{indent}{name:<{NAME_WIDTH}}{styled(row, part.style, colour)}")
    if note:
        start = len(indent) + NAME_WIDTH
        column = size * 3 + 1 if rows else 0  # beside the bytes if there is space, otherwise below
        if start + column + len(note) <= width:
            lines[0] += " " * (column - len(rows[0]) if rows else 0) + note
        else:
            lines += [" " * start + line for line in wrap(note, width - start)]
    return [line.rstrip() for line in lines]


def _bytes_per_line(width: int) -> int:
    space = width - MAX_INDENT - NAME_WIDTH
    return next((size for size in BYTES_PER_LINE if size * 3 - 1 <= space), BYTES_PER_LINE[-1])
