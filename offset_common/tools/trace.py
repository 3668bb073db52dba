"""Prints a check of a relay for a reader: each step, and under it every frame, taken apart.

Source: the sections of docs/protocol.md that each frame names.
"""

from __future__ import annotations

import sys
import textwrap
import threading
from typing import Callable

from offset_common.channel.secure_channel import Observer
from offset_common.tools.frames_seen import SENT, Frame, FrameAssembler
from offset_common.tools.meanings import meaning_of
from offset_common.tools.parts import Part, Section, take_apart
from offset_common.tools.relay_check import RelayCheck, StepDone
from offset_common.tools.terminal import Paint, painted, say, wants_colour

LINE = 16  # bytes on a line
SHORTENED = {"ciphertext", "randPadding"}  # random to the eye: their first and last line will do
NAME_WIDTH = 18
HEX_WIDTH = LINE * 3 + 1
TEXT_WIDTH = 108
SETTLE_TIMEOUT = 5.0  # seconds
OPENING = {"version", "ExchangeRandNonce", "ExchangeDh"}  # frames with which every connection begins


class TraceWatcher:
    """Prints what passes, as it passes.

    Args:
        write: takes each line.
        colour: whether lines have colours.
        short: how a connection begins is shown once; of the later ones, those frames are named only.
    """

    def __init__(self, write: Callable[[str], None] = say, colour: bool = False, short: bool = False) -> None:
        self._write = write
        self._colour = colour
        self._short = short
        self._first_connection = ""
        self._count = 0
        # Every connection has its thread: a frame, or a step's line, is written as a whole.
        self._changed = threading.Condition()
        self._assemblers: list[FrameAssembler] = []

    def begins(self, step: str, timeout: float) -> None:
        """Print the step's heading."""
        with self._changed:
            self._write(painted(f"== {step}", Paint.HEADING, self._colour))
            self._write("")

    def done(self, step: StepDone) -> None:
        """Let what the step sent leave, so that it stands under the step's own heading."""
        with self._changed:
            self._changed.wait_for(lambda: all(each.settled for each in self._assemblers), SETTLE_TIMEOUT)
            if step.detail:
                self._write(f"-- {step.detail}")
                self._write("")

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

    def ends(self, check: RelayCheck) -> None:
        """Print what came of it; a frame that could not be read stands before that."""
        with self._changed:
            for assembler in self._assemblers:
                assembler.finish()
            if check.failure is None:
                self._write(painted("the relay works", Paint.GOOD, self._colour))
            else:
                self._write(painted(f"FAILED: {check.failure.step}", Paint.BAD, self._colour))
                self._write(f"what happened: {check.failure.reason}")
                self._write(f"what to look at: {check.failure.advice}")

    def _print(self, frame: Frame) -> None:
        self._count += 1
        self._first_connection = self._first_connection or frame.connection
        again = frame.name in OPENING and frame.connection != self._first_connection
        lines = frame_lines(self._count, frame, self._colour)
        for line in lines[:1] if self._short and again else lines:
            self._write(line)
        self._write("")


def trace_to_output(short: bool = False) -> TraceWatcher:
    """Return a watcher that prints to the standard output, in colour where it is a terminal."""
    return TraceWatcher(say, wants_colour(sys.stdout), short)


def frame_lines(number: int, frame: Frame, colour: bool) -> list[str]:
    """Return the lines of a frame: what it is, why it is sent, and its layers.

    Args:
        number: counts the frames.
        frame: with its layers.
        colour: whether the lines have colours.
    """
    arrow = "->" if frame.direction == SENT else "<-"
    heading = f"frame {number}: {frame.connection} {arrow} relay: {frame.name}"
    meaning = meaning_of(frame.name, frame.direction)
    why = textwrap.wrap(f"{meaning.sentence} (section {meaning.section})", TEXT_WIDTH - 2)
    lines = [painted(heading, Paint.HEADING, colour), *(f"  {line}" for line in why)]
    for depth, section in enumerate(take_apart(frame)):
        lines += _section_lines(section, depth, colour)
    return lines


def _section_lines(section: Section, depth: int, colour: bool) -> list[str]:
    indent = "  " * (depth + 1)
    lines = [painted(f"{indent}{section.title} (section {section.section})", Paint.QUIET, colour)]
    for part in section.parts:
        lines += _part_lines(part, indent + "  ", colour)
    return lines


def _part_lines(part: Part, indent: str, colour: bool) -> list[str]:
    rows = [part.data[at : at + LINE].hex(" ") for at in range(0, len(part.data), LINE)]
    note = part.note
    if part.name in SHORTENED:
        note = f"{len(part.data)} bytes: {note}"
        if len(rows) > 3:
            rows = [rows[0], "...", rows[-1]]
    lines = []
    for index, row in enumerate(rows or [""]):
        name = part.name if index == 0 else ""
        lines.append(f"{indent}{name:<{NAME_WIDTH}}{painted(row, part.paint, colour)}")
    if note:
        gap = HEX_WIDTH - len(rows[0]) if rows else 0
        if len(indent) + NAME_WIDTH + gap + len(note) <= TEXT_WIDTH - (len(rows[0]) if rows else 0):
            lines[0] += " " * gap + note
        else:
            lines.append(f"{indent}{'':<{NAME_WIDTH}}{note}")
    return [line.rstrip() for line in lines]
