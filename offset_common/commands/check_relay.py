"""The command relay-check of stmgr; its docstring is its help page."""

from __future__ import annotations

from typing import Any

from offset_common.errors import UsageError
from offset_common.identity import load_identity
from offset_common.option_values import read_number
from offset_common.tickets import RelayTicket

MIN_TIMEOUT, MAX_TIMEOUT = 0.1, 3600.0  # seconds
MIN_INTERVAL, MAX_INTERVAL = 1.0, 86400.0  # seconds


def relay_check(values: dict[str, Any]) -> int:
    """Check that a relay works, by using it the way two nodes do.

    Two temporary nodes use the relay: one listens, the other connects, and a message passes in each
    direction. Then round trips and throughput are measured. A step that fails is reported with advice.

    Usage:
      stmgr.py relay-check <ticket> [options]

    Options:
      --idfile FILE      The identity of both nodes, for a relay with an access file that allows only some
                         keys. Do not use a real node's identity: the check would replace its listener.
      --quick            Do not measure the throughput, which sends up to 32 MiB.
      --trace            Show and explain every frame, and measure nothing.
      --illustrate FILE  Create a page (.html) that explains every byte, and measure nothing.
      --json             Print one JSON object at the end, and nothing else.
      --line             Print one line at the end, for a monitor: it starts with OK or FAILED.
      --watch SECONDS    Check again every SECONDS (1 to 86400) until Ctrl-C, as with --quick. Each check
                         prints one line, or one line of JSON. The exit status is that of the last check.
      --timeout SECONDS  The time limit of each step [default: 8].

    If the relay's name has several addresses, each of them must work, and nodes must meet through every pair
    of them: one listens at the first, the other connects at the second.
    The exit status is 0 if the relay works, 1 if it does not, and 2 if the command line is invalid.
    """
    timeout = read_number("--timeout", values["--timeout"], MIN_TIMEOUT, MAX_TIMEOUT, "seconds")
    interval = None
    if values["--watch"] is not None:
        interval = read_number("--watch", values["--watch"], MIN_INTERVAL, MAX_INTERVAL, "seconds")
        _check_exclusive(values, "--trace", "--watch")
        _check_exclusive(values, "--illustrate", "--watch")
    _check_exclusive(values, "--trace", "--json", "--line", "--illustrate")
    _check_exclusive(values, "--idfile", "--illustrate")  # the page shows the private keys
    ticket = RelayTicket.load(values["<ticket>"])
    identity = None if values["--idfile"] is None else load_identity(values["--idfile"])
    if identity is not None and identity.public_key == ticket.public_key:
        raise UsageError("--idfile is the identity of the relay itself; create one for the check")
    if values["--illustrate"] is not None:
        from offset_common.illustrate.command import illustrate

        illustrate(ticket, values["--illustrate"], timeout)
        return 0
    # Imported here because no other command needs the client, which is slow to import.
    from offset_common.tools.check_report import Report, check_and_report, watch_and_report

    if interval is not None:
        return watch_and_report(ticket, timeout, interval, as_json=values["--json"], identity=identity)
    report = Report.STEPS
    for option, form in (("--trace", Report.TRACE), ("--json", Report.JSON), ("--line", Report.LINE)):
        report = form if values[option] else report
    return check_and_report(ticket, timeout, report, quick=values["--quick"], identity=identity)


def _check_exclusive(values: dict[str, Any], *options: str) -> None:
    given = [option for option in options if values[option]]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} cannot be used together; choose one")
