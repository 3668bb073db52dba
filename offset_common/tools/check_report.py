"""Report a relay check: lines for a person, or JSON for a program."""

from __future__ import annotations

import json
import sys
from typing import Optional

from offset_common.channel.secure_channel import Observer
from offset_common.identity import encode_key
from offset_common.tickets import RelayTicket
from offset_common.tools.failures import outcome_lines
from offset_common.tools.relay_check import Bulk, RelayCheck, RoundTrips, StepDone
from offset_common.tools.terminal import Progress, Style, print_line, styled, wants_colour
from offset_common.tools.trace import TraceWatcher

STATUS_FAILED = 1
STEP_WIDTH = 16
MEASUREMENTS = ("round trips", "bulk")  # steps that are reported by a line of their own


class LineWatcher:
    """Print a line for each completed step, and a progress line for the current one on a terminal.

    Args:
        colour: use colours.
        lines: False to print the progress line only.
    """

    def __init__(self, colour: bool, lines: bool) -> None:
        self._lines = lines
        self._colour = colour
        self._progress = Progress()

    def step_started(self, step: str, timeout: float) -> None:
        """Show the progress line."""
        self._progress.show(f"  {step} ... (at most {timeout:g} s)")

    def step_done(self, step: StepDone) -> None:
        """Print the line of the step."""
        self._progress.clear()
        if self._lines and step.name not in MEASUREMENTS:
            mark = styled("ok", Style.GOOD, self._colour)
            time = _milliseconds(step.seconds)
            print_line(f"  {mark}  {step.name:<{STEP_WIDTH}}{time:>12}  {step.detail}".rstrip())

    def observer(self, connection: str) -> Optional[Observer]:
        """Return None: this watcher does not show frames."""
        return None

    def finished(self, check: RelayCheck) -> None:
        """Print the measurements and the outcome."""
        self._progress.clear()
        if self._lines:
            if check.round_trips:
                print_line(_round_trips_line(check.round_trips))
            if check.bulk:
                print_line(_bulk_line(check.bulk))
            for line in outcome_lines(check.failure, self._colour):
                print_line(line)


def check_and_report(
    ticket: RelayTicket, timeout: float, *, trace: bool = False, short: bool = False, as_json: bool = False
) -> int:
    """Check a relay and print the results as they arrive.

    Args:
        ticket: the relay's.
        timeout: seconds for each step.
        trace: print every frame, and measure nothing.
        short: in a trace, print the opening frames of the first connection only.
        as_json: print nothing but one JSON object at the end.

    Returns:
        The exit status: 0, or 1 if a step failed.
    """
    colour = wants_colour(sys.stdout)
    watcher = TraceWatcher(print_line, colour, short) if trace else LineWatcher(colour, lines=not as_json)
    if not as_json:
        print_line(f"relay {encode_key(ticket.public_key)} at {ticket.address}\n")
    check = RelayCheck(ticket, watcher, timeout, measure=not trace)
    works = check.run()
    watcher.finished(check)
    if as_json:
        print_line(json_report(check))
    return 0 if works else STATUS_FAILED


def json_report(check: RelayCheck) -> str:
    """Return the check as one JSON object. Times are in seconds."""
    failure = check.failure
    report = {
        "ok": failure is None,
        "publicKey": encode_key(check.ticket.public_key),
        "address": str(check.ticket.address),
        "steps": [{"step": s.name, "seconds": round(s.seconds, 6), "detail": s.detail} for s in check.steps],
        "failure": failure and failure._asdict(),
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
    return f"round trip between the nodes: p50 {p50}, p99 {p99} ({times.number} messages)"


def _bulk_line(bulk: Bulk) -> str:
    return (
        f"throughput, one way: {bulk.rate / 1e6:.1f} MB/s for {bulk.seconds:.1f} s"
        " (this program is both nodes, so it encrypts and decrypts all of it)"
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
