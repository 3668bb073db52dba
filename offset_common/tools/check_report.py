"""Report a relay check: lines for a person, one line for a monitor, or JSON for a program."""

from __future__ import annotations

import datetime
import enum
import json
import sys
import time
from collections.abc import Sequence
from typing import Optional, Union

from offset_common.channel.secure_channel import Observer
from offset_common.identity import Identity, encode_key
from offset_common.tickets import RelayTicket
from offset_common.tools.address_check import AddressResult
from offset_common.tools.failures import outcome_lines
from offset_common.tools.measurements import Bulk, RoundTrips
from offset_common.tools.relay_check import RelayCheck, StepDone
from offset_common.tools.terminal import Progress, Style, print_line, styled, text_width, wants_colour, wrap
from offset_common.tools.trace import TEXT_WIDTH, TraceWatcher

STATUS_FAILED = 1
STEP_WIDTH = 16
NO_ROUTE = "not checked: this machine has no route to it"
MEASUREMENTS = ("round trips", "bulk")  # steps that are reported on lines of their own


class Report(enum.Enum):
    """The forms of a report."""

    STEPS = "a line for each step"
    LINE = "one line"
    JSON = "one JSON object"
    TRACE = "every frame"


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

    def addresses_checked(self, results: Sequence[AddressResult]) -> None:
        """Print a line for each address."""
        self._progress.clear()
        if self._lines:
            for line in _address_lines(results, self._colour):
                print_line(line)

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
    ticket: RelayTicket,
    timeout: float,
    report: Report = Report.STEPS,
    *,
    quick: bool = False,
    short: bool = False,
    identity: Optional[Identity] = None,
) -> int:
    """Check a relay and print the results as they arrive.

    Args:
        ticket: the relay's ticket.
        timeout: seconds for each step.
        report: the form of the output. A trace measures nothing.
        quick: do not measure the throughput.
        short: in a trace, print the opening frames only for the first connection.
        identity: the identity of both nodes; None for temporary identities.

    Returns:
        The exit status: 0, or 1 if the relay does not work.
    """
    colour = wants_colour(sys.stdout)
    width = text_width(sys.stdout, TEXT_WIDTH)
    watcher: Union[TraceWatcher, LineWatcher]
    if report is Report.TRACE:
        watcher = TraceWatcher(print_line, colour, short, width)
    else:
        watcher = LineWatcher(colour, lines=report is Report.STEPS)
    title = f"relay {encode_key(ticket.public_key)} at {ticket.address}"
    if report is Report.TRACE:
        print_line("\n".join(wrap(title, width)) + "\n")
    elif report is Report.STEPS:
        print_line(f"{title}\n")
    measure = report is not Report.TRACE
    check = RelayCheck(
        ticket, watcher, timeout, round_trips=measure, bulk=measure and not quick, identity=identity
    )
    try:
        works = check.run()
        watcher.finished(check)
    except KeyboardInterrupt:
        Progress().interrupted()
        raise
    if report is Report.JSON:
        print_line(json.dumps(json_report(check), indent=2))
    elif report is Report.LINE:
        print_line(monitor_line(check))
    return 0 if works else STATUS_FAILED


def watch_and_report(
    ticket: RelayTicket,
    timeout: float,
    interval: float,
    *,
    as_json: bool = False,
    identity: Optional[Identity] = None,
) -> int:
    """Check a relay repeatedly until Ctrl-C, without throughput; print one line for each check.

    Args:
        ticket: the relay's ticket.
        timeout: seconds for each step.
        interval: seconds from the start of one check to the start of the next.
        as_json: print a JSON object on each line.
        identity: the identity of both nodes; None for temporary identities.

    Returns:
        The exit status: 0, or 1 if the relay did not work in the last complete check.
    """
    works = True
    try:
        while True:
            start = time.monotonic()
            now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            watcher = LineWatcher(colour=False, lines=False)
            check = RelayCheck(ticket, watcher, timeout, bulk=False, identity=identity)
            works = check.run()
            watcher.finished(check)
            if as_json:
                print_line(json.dumps({"time": now, **json_report(check)}))
            else:
                print_line(f"{now} {monitor_line(check)}")
            time.sleep(max(0.0, start + interval - time.monotonic()))
    except KeyboardInterrupt:
        Progress().interrupted()
    return 0 if works else STATUS_FAILED


def monitor_line(check: RelayCheck) -> str:
    """Return the outcome as one line that starts with OK or FAILED."""
    if check.failure is not None:
        return f"FAILED {check.ticket.address}: {check.failure.step}: {check.failure.reason}"
    seconds = sum(step.seconds for step in check.steps if step.name not in MEASUREMENTS)
    line = f"OK {check.ticket.address}: all steps in {_milliseconds(seconds)}"
    if check.round_trips:
        line += f", round trip {_milliseconds(check.round_trips.p50)}"
    if check.bulk:
        line += f", {check.bulk.rate / 1e6:.1f} MB/s"
    return line


def json_report(check: RelayCheck) -> dict[str, object]:
    """Return the check as a JSON object. Times are in seconds."""
    failure = check.failure
    return {
        "ok": failure is None,
        "publicKey": encode_key(check.ticket.public_key),
        "address": str(check.ticket.address),
        "steps": [{"step": s.name, "seconds": round(s.seconds, 6), "detail": s.detail} for s in check.steps],
        "addresses": [_address_object(each) for each in check.addresses],
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


def _address_lines(results: Sequence[AddressResult], colour: bool) -> list[str]:
    lines = []
    for each in results:
        if each.failure is not None:
            mark, detail = styled("FAILED", Style.BAD, colour), each.failure.reason
        elif not each.routed:
            mark, detail = "--", NO_ROUTE
        else:
            mark, detail = styled("ok", Style.GOOD, colour), f"{_milliseconds(each.seconds)} to the handshake"
        lines.append(f"  {mark}  {each.host}  {detail}")
    return lines


def _address_object(result: AddressResult) -> dict[str, object]:
    return {
        "address": result.host,
        "ok": result.works,
        "checked": result.routed,
        "seconds": round(result.seconds, 6),
        "failure": result.failure and result.failure._asdict(),
    }


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
