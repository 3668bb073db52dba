"""How a check of a relay is told: line by line to a person, or as JSON to a program."""

from __future__ import annotations

import json
import sys
from typing import Optional

from offset_common.channel.secure_channel import Observer
from offset_common.identity import encode_key
from offset_common.tickets import RelayTicket
from offset_common.tools.relay_check import Bulk, RelayCheck, RoundTrips, StepDone
from offset_common.tools.terminal import Paint, Progress, painted, say, say_lines, wants_colour
from offset_common.tools.trace import trace_to_output

STATUS_FAILED = 1
STEP_WIDTH = 16
MEASURED = ("round trips", "bulk")  # steps whose line says more than how long they took


class LineWatcher:
    """Prints a line for each step when it is done, and on a terminal one for the step under way.

    Args:
        lines: False for the terminal's line alone.
    """

    def __init__(self, lines: bool = True) -> None:
        self._lines = lines
        self._colour = wants_colour(sys.stdout)
        self._progress = Progress()

    def begins(self, step: str, timeout: float) -> None:
        """Show what is under way."""
        self._progress.show(f"  {step} ... (at most {timeout:g} s)")

    def done(self, step: StepDone) -> None:
        """Print its line."""
        self._progress.clear()
        if self._lines and step.name not in MEASURED:
            say(step_line(step, self._colour))

    def observer(self, connection: str) -> Optional[Observer]:
        """Return None: nobody wants to see the frames."""
        return None

    def ends(self, check: RelayCheck) -> None:
        """Print what came of it."""
        self._progress.clear()
        if self._lines:
            for line in closing_lines(check, self._colour):
                say(line)


def check_and_report(
    ticket: RelayTicket, timeout: float, *, trace: bool = False, short: bool = False, as_json: bool = False
) -> int:
    """Check a relay and print what comes of it, as it comes.

    Args:
        ticket: of the relay.
        timeout: seconds that each step may take.
        trace: print every frame, and measure nothing.
        short: of a trace, show only once how a connection begins.
        as_json: print one JSON object at the end and nothing else.

    Returns:
        The exit status: 0, or 1 if a step failed.
    """
    watcher = trace_to_output(short) if trace else LineWatcher(lines=not as_json)
    if not as_json:
        say(opening_line(ticket))
        say("")
    check = RelayCheck(ticket, watcher, timeout, measure=not trace)
    works = check.run()
    watcher.ends(check)
    if as_json:
        say_lines(json_report(check))
    return 0 if works else STATUS_FAILED


def opening_line(ticket: RelayTicket) -> str:
    """Return what is checked, for a person."""
    return f"relay {encode_key(ticket.public_key)} at {ticket.address}"


def step_line(step: StepDone, colour: bool) -> str:
    """Return the line of a step that succeeded."""
    mark = painted("ok", Paint.GOOD, colour)
    return f"  {mark}  {step.name:<{STEP_WIDTH}}{_milliseconds(step.seconds):>12}  {step.detail}".rstrip()


def closing_lines(check: RelayCheck, colour: bool) -> list[str]:
    """Return the measurements and the outcome, or what failed and what to look at."""
    lines = []
    if check.round_trips:
        lines.append(_round_trips_line(check.round_trips))
    if check.bulk:
        lines.append(_bulk_line(check.bulk))
    if check.failure is None:
        return [*lines, painted("the relay works", Paint.GOOD, colour)]
    mark = painted("FAILED", Paint.BAD, colour)
    return [
        *lines,
        f"  {mark}  {check.failure.step}",
        f"what happened: {check.failure.reason}",
        f"what to look at: {check.failure.advice}",
    ]


def json_report(check: RelayCheck) -> str:
    """Return the whole check as one JSON object; times are seconds."""
    failure = check.failure
    report = {
        "ok": failure is None,
        "publicKey": encode_key(check.ticket.public_key),
        "address": str(check.ticket.address),
        "steps": [{"step": s.name, "seconds": round(s.seconds, 6), "detail": s.detail} for s in check.steps],
        "failure": failure
        and {
            "step": failure.step,
            "cause": failure.cause.value,
            "reason": failure.reason,
            "advice": failure.advice,
        },
        "roundTrip": check.round_trips
        and {
            "count": check.round_trips.number,
            "p50": round(check.round_trips.p50, 6),
            "p99": round(check.round_trips.p99, 6),
        },
        "bulk": check.bulk
        and {
            "bytes": check.bulk.size,
            "seconds": round(check.bulk.seconds, 6),
            "bytesPerSecond": round(check.bulk.rate),
        },
    }
    return json.dumps(report, indent=2)


def _round_trips_line(times: RoundTrips) -> str:
    p50, p99 = _milliseconds(times.p50), _milliseconds(times.p99)
    return f"round trip, node to node and back: p50 {p50}, p99 {p99} ({times.number} messages)"


def _bulk_line(bulk: Bulk) -> str:
    return (
        f"throughput, one way: {bulk.rate / 1e6:.1f} MB/s for {bulk.seconds:.1f} s"
        " (both nodes are this program, which seals and opens all of it)"
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
