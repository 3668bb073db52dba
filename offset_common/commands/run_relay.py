"""Run the relay that a command line describes. The help page in strelay.py is its grammar."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Callable, Optional

from offset_common import __version__
from offset_common.address import parse_listen_address
from offset_common.command_line import as_started, parse, run
from offset_common.commands.descriptors import raise_descriptor_limit
from offset_common.errors import OperatorError, UsageError
from offset_common.file_access import exposure
from offset_common.identity import load_identity
from offset_common.networks import NetworkSet, parse_network
from offset_common.option_values import read_choice, read_count, read_number, read_size
from offset_common.relay.buffer_pool import return_large_blocks
from offset_common.relay.homes import Homes
from offset_common.relay.limits import KIB, MIB, Limits, connections_for
from offset_common.relay.log import RelayLog, everything_logged, log_event
from offset_common.relay.log_format import FORMATS, Format
from offset_common.relay.policy import Policy
from offset_common.relay.server import Relay
from offset_common.relay.signals import Signals
from offset_common.service.control import Control, Drain, controlled
from offset_common.service.origin import Origin
from offset_common.service.sockets import FLEET, RELAY, STATUS, ListeningSockets

VERSION = f"strelay {__version__}"
STATUS_SOFTWARE = 70  # EX_SOFTWARE of sysexits.h: the relay itself failed, a supervisor starts it again
MAX_COUNT = 10_000_000
MAX_WORKERS = 256
MIN_RATE = 1000  # bytes a second
MAX_BYTES = 10**15
POLICY_OPTIONS = ("--access", "--rate", "--rate-per-key", "--quota", "--quota-per-key", "--usage")
FLEET_OPTIONS = ("--fleet-laddr", "--fleet-address", "--fleet-name")
RATES = frozenset({"--rate", "--rate-per-key"})
RELOADED_OPTIONS = RATES | frozenset(
    {
        *("--access", "--quota", "--quota-per-key"),
        *("--connections", "--unproven", "--accepts", "--per-address", "--per-key"),
        *("--waiting", "--waiting-for", "--tunnels"),
    }
)
"""Options that SIGHUP reads again from a configuration file; rates only if there is one worker."""

DAY = 86400  # seconds
MAX_DRAIN = 30 * DAY
EXAMPLE = "--laddr 0.0.0.0:4567"


def run_strelay(page: str, argv: Optional[Sequence[str]], signals: Signals) -> int:
    """Run the relay until a signal stops it.

    Args:
        page: the help page, which is the grammar of the command line.
        argv: the arguments, without the program name; None for those of the process.
        signals: already installed.

    Returns:
        The exit status.
    """
    if argv is not None:
        return run("strelay", lambda: start(page, argv, signals))
    page = as_started(page, "strelay.py")
    status = run("strelay", lambda: start(page, sys.argv[1:], signals))
    if status == STATUS_SOFTWARE:
        # The threads of a relay that failed may never end, and a normal exit waits for them.
        if sys.stderr is not None:
            sys.stderr.flush()
        os._exit(status)
    return status


def start(page: str, argv: Sequence[str], signals: Signals) -> int:
    """Parse the command line, and start its relay.

    Raises:
        OperatorError: the relay cannot start.
    """
    arguments = parse(page, argv, VERSION)
    if arguments["--fleet"] is not None:
        from offset_common.fleet.options import refuse_password  # only for hosts of a fleet

        refuse_password(arguments["--fleet"])
    origin = Origin(os.environ)
    passed = origin.sockets.are_passed(RELAY)
    if arguments["--config"] is None:
        if not arguments[RELAY] and not passed:
            raise UsageError(f"{RELAY} is missing, and systemd passed no socket; give it as in {EXAMPLE}")
        return serve(arguments, signals, origin)
    # Imported only here, as other parts of a policy below.
    from offset_common.policy.config import ConfiguredArguments

    required = ("--idfile",) if passed else ("--idfile", RELAY)
    source = ConfiguredArguments(page, argv, VERSION, required)
    return serve(source.read(), signals, origin, source.read)


def serve(
    arguments: dict[str, Any],
    signals: Signals,
    origin: Origin,
    reread: Optional[Callable[[], dict[str, Any]]] = None,
) -> int:
    """Start the relay that the arguments describe, and serve.

    Args:
        arguments: by option name, as docopt returns them.
        signals: kept since the start of the program.
        origin: what started the program.
        reread: returns the arguments anew, if some come from a configuration file.

    Raises:
        OperatorError: it cannot start.
    """
    addresses = [parse_listen_address(text) for text in arguments["--laddr"]]
    status = open_status(arguments["--status"], origin.sockets)
    return_large_blocks()
    limits = read_limits(arguments)
    drain = read_drain(arguments)
    workers = read_workers(arguments)
    lines_of = read_log_format(arguments)
    identity = load_identity(arguments["--idfile"])
    policy = read_policy(arguments, reread)
    balancers = read_balancers(arguments["--proxy-protocol"])
    log = RelayLog(lines_of=lines_of)
    warning = exposure(arguments["--idfile"])
    if warning is not None:
        file, reason, advice = arguments["--idfile"], *warning
        log_event("identity is exposed", logging.WARNING, file=file, reason=reason, advice=advice)
    make_homes = read_homes(arguments, limits, origin.sockets)
    sockets = origin.sockets.listen(RELAY, addresses, limits.socket_buffer)
    origin.sockets.close_unused()
    signals.hold()
    relay = Relay(
        identity,
        sockets,
        limits,
        log,
        workers=workers,
        policy=policy,
        balancers=balancers,
        make_homes=make_homes,
    )
    try:
        with everything_logged(), status(relay) as retire_status:
            control = Control(relay, origin.notifier, origin.sockets, drain, retire_status)
            with controlled(control, relay, signals, origin.predecessor):
                relay.serve()
    except OperatorError:
        relay.close()
        raise
    except Exception as error:
        log.close()
        log = RelayLog(lines_of=lines_of)
        log_event("the relay failed", logging.ERROR, exc_info=error)
        log.close()
        return STATUS_SOFTWARE
    return 0


def open_status(
    text: Optional[str], sockets: ListeningSockets
) -> Callable[[Relay], AbstractContextManager[Callable[[], None]]]:
    """Return what serves the status of a relay while a `with` block lasts.

    The block gets a function that leaves the address to another process.

    Args:
        text: the address to listen on; None for no status, unless systemd passed sockets for it.
        sockets: the listening sockets of this process.

    Raises:
        OperatorError: the address is invalid, or the relay cannot listen there.
    """
    if text is None and not sockets.are_passed(STATUS):
        return lambda relay: nullcontext(lambda: None)
    # Imported only here: a relay without status does without this room.
    from offset_common.status.service import StatusService, parse_status_address

    addresses = [] if text is None else [parse_status_address(text)]
    service = StatusService(sockets.listen(STATUS, addresses))

    @contextmanager
    def serve_status(relay: Relay) -> Iterator[Callable[[], None]]:
        service.start(relay, lambda key: relay.name_of(key) or "")
        try:
            yield service.retire
        finally:
            service.stop()

    return serve_status


def read_drain(arguments: dict[str, Any]) -> Drain:
    """Return the time that tunnels have.

    Raises:
        UsageError: it is not a number, or out of range.
    """
    stop = read_number("--drain", arguments["--drain"], 0, DAY, "seconds")
    text = arguments["--upgrade-drain"]
    return Drain(
        stop, stop if text is None else read_number("--upgrade-drain", text, 0, MAX_DRAIN, "seconds")
    )


def read_limits(arguments: dict[str, Any]) -> Limits:
    """Return the limits in the arguments.

    Raises:
        UsageError: one is not a number, or out of range.
    """
    connections = connections_for(raise_descriptor_limit())
    if arguments["--connections"] != "auto":
        connections = min(read_count("--connections", arguments["--connections"], MAX_COUNT), connections)
    per_address = min(Limits().connections_per_address, connections - connections // 4)
    if arguments["--per-address"] != "auto":
        per_address = read_count("--per-address", arguments["--per-address"], MAX_COUNT)
    per_key = min(Limits().connections_per_key, max(1, per_address // 2))
    if arguments["--per-key"] != "auto":
        per_key = read_count("--per-key", arguments["--per-key"], MAX_COUNT)
    return Limits(
        connections=connections,
        connections_per_address=per_address,
        connections_per_key=per_key,
        unauthenticated=read_count("--unproven", arguments["--unproven"], MAX_COUNT),
        waiting_per_key=read_count("--waiting", arguments["--waiting"], MAX_COUNT),
        waiting_per_listener=read_count("--waiting-for", arguments["--waiting-for"], MAX_COUNT),
        tunnels_per_key=read_count("--tunnels", arguments["--tunnels"], MAX_COUNT),
        buffers=int(read_number("--buffers", arguments["--buffers"], 1, 1 << 20, "MiB") * MIB),
        socket_buffer=int(
            read_number("--socket-buffer", arguments["--socket-buffer"], 0, 1 << 20, "KiB") * KIB
        ),
        stall=read_number("--stall", arguments["--stall"], 1, DAY, "seconds"),
        accepts_per_second=read_count("--accepts", arguments["--accepts"], MAX_COUNT),
        handshake_threads=read_count("--handshake-threads", arguments["--handshake-threads"], 256),
        ipv6_prefix=read_count("--ipv6-prefix", arguments["--ipv6-prefix"], 128),
    )


def read_policy(arguments: dict[str, Any], reread: Optional[Callable[[], dict[str, Any]]] = None) -> Policy:
    """Return the policy that the arguments ask for.

    Args:
        arguments: by option name, as docopt returns them.
        reread: returns them anew, if some come from a configuration file.

    Raises:
        OperatorError: a value is invalid, or a file cannot be read.
    """
    if reread is None and all(arguments[name] is None for name in POLICY_OPTIONS):
        return Policy()
    # Imported only here: a relay without such options does without these parts.
    from offset_common.policy.steering import PolicyOptions, Settings, Steering

    def options_of(arguments: dict[str, Any]) -> PolicyOptions:
        return PolicyOptions(
            access=arguments["--access"],
            rate=_read_bytes("--rate", arguments, MIN_RATE),
            rate_per_key=_read_bytes("--rate-per-key", arguments, MIN_RATE),
            quota=_read_bytes("--quota", arguments, 1),
            quota_per_key=_read_bytes("--quota-per-key", arguments, 1),
            usage=arguments["--usage"],
        )

    def settings() -> Settings:
        assert reread is not None
        reloaded_options = RELOADED_OPTIONS if read_workers(arguments) == 1 else RELOADED_OPTIONS - RATES
        changed = {name: value for name, value in reread().items() if value != arguments[name]}
        need_restart = sorted(changed.keys() - reloaded_options)
        reloaded = {**arguments, **{name: changed[name] for name in changed if name in reloaded_options}}
        return Settings(options_of(reloaded), read_limits(reloaded), need_restart)

    return Steering(options_of(arguments), reread=None if reread is None else settings)


def _read_bytes(option: str, arguments: dict[str, Any], least: int) -> Optional[int]:
    text = arguments[option]
    return None if text is None else read_size(option, text, least, MAX_BYTES)


def read_balancers(networks: Sequence[str]) -> NetworkSet:
    """Return the networks whose connections begin with a PROXY header.

    Raises:
        UsageError: one is not a network.
    """
    try:
        return NetworkSet(map(parse_network, networks))
    except UsageError as error:
        raise UsageError(f"--proxy-protocol: {error}") from None


def read_homes(
    arguments: dict[str, Any], limits: Limits, sockets: ListeningSockets
) -> Optional[Callable[[Relay], Homes]]:
    """Return what makes the relay's knowledge of other hosts; None for a relay of one host.

    Args:
        arguments: by option name, as docopt returns them.
        limits: of the relay.
        sockets: the listening sockets of this process.

    Raises:
        OperatorError: a value is invalid, a file cannot be read, or the relay cannot listen there.
    """
    if arguments["--fleet"] is None:
        given = [name for name in FLEET_OPTIONS if arguments[name] is not None]
        if given:
            raise UsageError(f"{given[0]} needs --fleet URL, the directory of the fleet")
        return None
    # Imported only here: a relay of one host does without this room.
    from offset_common.fleet.fleet import Fleet
    from offset_common.fleet.options import exposed_file, read_fleet

    options = read_fleet(arguments, lambda address: sockets.listen(FLEET, [address], limits.socket_buffer))
    exposed = exposed_file(arguments["--fleet"])
    if exposed is not None:
        log_event("password is exposed", logging.WARNING, file=exposed, advice=f"run chmod 600 {exposed}")
    return lambda relay: Fleet(options, relay)


def read_log_format(arguments: dict[str, Any]) -> Format:
    """Return the format of the log; every line of a host of a fleet has its name.

    Raises:
        UsageError: the format, or the name of the host, is invalid.
    """
    lines_of = FORMATS[read_choice("--log-format", arguments["--log-format"], FORMATS)]
    if arguments["--fleet"] is None:
        return lines_of
    from offset_common.fleet.options import read_name  # only for hosts of a fleet

    return partial(lines_of, more={"host": read_name(arguments["--fleet-name"])})


def read_workers(arguments: dict[str, Any]) -> int:
    """Return the number of processes that forward.

    Raises:
        UsageError: it is not a number, out of range, or this system can only use one.
    """
    can_share = hasattr(socket, "AF_UNIX") and hasattr(socket, "SOCK_SEQPACKET")
    if arguments["--workers"] == "auto":
        return available_cores() if can_share else 1
    workers = read_count("--workers", arguments["--workers"], MAX_WORKERS)
    if workers > 1 and not can_share:
        raise UsageError(f"--workers {workers} is not possible on this system; use --workers 1")
    return workers


def available_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
