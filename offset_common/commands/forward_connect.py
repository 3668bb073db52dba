"""`stforward to` and `stforward list MACHINE`: connect to another machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Callable, Optional

from offset_common.command_line import STATUS_INTERRUPTED
from offset_common.commands.forward_arguments import (
    MAX_CONNECTIONS,
    read_identity,
    read_keep,
    read_machine,
    read_name,
    read_wait,
    refuse_identity_of_relay,
)
from offset_common.errors import OperatorError, ServiceError, UsageError
from offset_common.forward.code import Code
from offset_common.forward.config_directory import ConfigDirectory
from offset_common.forward.display import Display
from offset_common.forward.doors import Door, Forwarding
from offset_common.forward.event_loop import EventLoop
from offset_common.forward.known_codes import KnownCodes
from offset_common.forward.messages import Welcome, is_name
from offset_common.forward.process import linger, running_loop
from offset_common.forward.reach import Reach, ReachOptions
from offset_common.forward.services import Place, parse_places
from offset_common.forward.stdio import StandardStreams
from offset_common.forward.traffic import Traffic
from offset_common.option_values import read_count


def connect(arguments: dict[str, Any]) -> int:
    """Make services of another machine appear on this one; return the exit status."""
    stdio = arguments["--stdio"]
    places, service = read_places(arguments["<where>"], stdio)
    most = read_count("--max", arguments["--max"], MAX_CONNECTIONS)
    directory = ConfigDirectory.of_user()
    known = KnownCodes(directory)
    code, peer = read_machine(arguments, known)
    if stdio and arguments["--json"]:
        raise UsageError("--json and --stdio both use standard output; choose one")
    display = Display(arguments["--json"], quiet=stdio)
    with running_loop(display) as loop:
        ending = Ending(loop)

        def welcomed(welcome: Welcome) -> None:
            remember(known, code, arguments["--as"], display, welcome)
            report_missing(places, welcome, peer, display)

        reach = make_reach(arguments, loop, directory, code, peer, display, welcomed, ending.end)
        forwarding = Forwarding(reach, Traffic(loop, display), most, display)
        doors = open_doors(loop, places, forwarding, display)
        if stdio:
            streams = StandardStreams(loop, ending.end)

            def ended(reason: str) -> None:
                if reason:
                    ending.end(reason)
                else:  # only the delivery of bytes in transit can still fail
                    streams.when_written(partial(reach.when_delivered, ending.end))

            forwarding.forward(streams.sock, service, "standard input", ended)
        for door in doors:
            display.event("listening", f"listening on {door.name}", where=door.name, service=door.service)
        reach.start()
        loop.run()
        ending.settle()
        for door in doors:
            door.close()
        reach.stop()
        linger(loop)
    return ending.status(stdio)


def read_places(words: Sequence[str], stdio: bool) -> tuple[list[Place], str]:
    """Return where to listen, and the service for --stdio.

    Raises:
        UsageError: a word is invalid, or missing.
    """
    if stdio:
        if len(words) > 1 or (words and not is_name(words[0])):
            raise UsageError("--stdio connects one service; give its name only, as in: to home ssh --stdio")
        return [], words[0] if words else ""
    if not words:
        raise UsageError("no port is given; give one to listen on, as in: to CODE 2222, or --stdio")
    return parse_places(words), ""


def open_doors(
    loop: EventLoop, places: Sequence[Place], forwarding: Forwarding, display: Display
) -> list[Door]:
    """Listen at all places; if that fails at one, close the others.

    Raises:
        ServiceError: the system refuses an address.
    """
    doors: list[Door] = []
    try:
        for place in places:
            doors.append(Door(loop, place, forwarding.enter, display))
    except BaseException:
        for door in doors:
            door.close()
        raise
    return doors


def remember(known: KnownCodes, code: Code, name: Optional[str], display: Display, welcome: Welcome) -> None:
    """Remember the code of a machine that has let this one in."""
    try:
        if known.name_of(code) and not name:
            return
        given = known.add(code, name or welcome.name or "machine")
    except OperatorError as error:
        display.problem("not_remembered", f"the code is not remembered: {error}")
        return
    display.event(
        "remembered", f"the code is remembered; next time, use the name {given} instead", name=given
    )


def report_missing(places: Sequence[Place], welcome: Welcome, peer: str, display: Display) -> None:
    """Report the services that the other machine doesn't share; connections to them will be closed."""
    shared = ", ".join(welcome.services)
    for name in dict.fromkeys(place.service for place in places):
        if name and name not in welcome.services:
            text = f"{peer} shares no service {name!r}; name one of: {shared}"
            display.problem("no_service", text, service=name)


class Ending:
    """Ends the process, and decides its exit status.

    Args:
        loop: the event loop, which it stops.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._ended = False
        self._settled = False
        self._failure = ""

    def settle(self) -> None:
        """Ignore later calls of `end`: the loop has stopped, perhaps because of a signal."""
        self._settled = True

    def end(self, reason: str) -> None:
        """End because of a failure; an empty reason is an orderly end."""
        if self._settled:
            return
        self._failure = self._failure or reason
        self._ended = True
        self._loop.stop()

    def status(self, stdio: bool) -> int:
        """Return the exit status.

        Args:
            stdio: whether stopping before `end` was called counts as an interruption.

        Raises:
            ServiceError: there was a failure.
        """
        if self._failure:
            raise ServiceError(self._failure)
        return STATUS_INTERRUPTED if stdio and not self._ended else 0


def list_services(arguments: dict[str, Any]) -> int:
    """Print the services that a machine shares."""
    directory = ConfigDirectory.of_user()
    known = KnownCodes(directory)
    code, peer = read_machine(arguments, known)
    display = Display(arguments["--json"], quiet=True)
    services: list[str] = []
    with running_loop(display) as loop:
        ending = Ending(loop)

        def welcomed(welcome: Welcome) -> None:
            remember(known, code, arguments["--as"], display, welcome)
            services[:] = welcome.services
            ending.end("")

        reach = make_reach(arguments, loop, directory, code, peer, display, welcomed, ending.end)
        loop.call_later(read_wait(arguments), lambda: ending.end(reach.failure))
        reach.start()
        loop.run()
        ending.settle()
        reach.stop()
        linger(loop)
    for service in services:
        display.result(service, event="service", name=service)
    return ending.status(stdio=True)


def make_reach(
    arguments: dict[str, Any],
    loop: EventLoop,
    directory: ConfigDirectory,
    code: Code,
    peer: str,
    display: Display,
    welcomed: Callable[[Welcome], object],
    refused: Callable[[str], object],
) -> Reach:
    """Return the connecting side that the arguments describe, not started yet.

    Raises:
        UsageError: an argument is invalid, or the code is this machine's own.
        FileError: the identity cannot be read.
    """
    identity = read_identity(arguments, directory)
    refuse_identity_of_relay(identity, code.relay)
    if code.public_key == identity.public_key:
        raise UsageError("this is the code of this machine itself; use it on another machine")
    options = ReachOptions(read_name(arguments), peer, read_wait(arguments), read_keep(arguments))
    return Reach(loop, code, identity, options, display, welcomed, refused)
