"""Run the relay that a command line describes. The help page in strelay.py is its grammar."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Callable, Optional

from offset_common import __version__
from offset_common.address import Address
from offset_common.command_line import as_started, parse, run
from offset_common.commands.descriptors import raise_descriptor_limit
from offset_common.commands.relay_options import (
    check_no_fleet,
    check_options,
    read_limits,
    read_options,
    read_workers,
)
from offset_common.errors import OperatorError, UsageError
from offset_common.file_access import exposure
from offset_common.identity import load_identity
from offset_common.relay.buffer_pool import return_large_blocks
from offset_common.relay.homes import Homes
from offset_common.relay.limits import Limits
from offset_common.relay.log import RelayLog, everything_logged, log_event
from offset_common.relay.policy import Policy, PolicyRelay
from offset_common.relay.server import Relay
from offset_common.relay.signals import Signals
from offset_common.service.control import Control, controlled
from offset_common.service.origin import Origin
from offset_common.service.sockets import FLEET, RELAY, STATUS, ListeningSockets

VERSION = f"strelay {__version__}"
STATUS_SOFTWARE = 70  # EX_SOFTWARE of sysexits.h: the relay itself failed; a supervisor restarts it
POLICY_OPTIONS = ("--access", "--rate", "--rate-per-key", "--quota", "--quota-per-key", "--usage")
RATES = frozenset({"--rate", "--rate-per-key"})
RELOADED_OPTIONS = RATES | frozenset(
    {
        *("--access", "--quota", "--quota-per-key"),
        *("--connections", "--unproven", "--accepts", "--per-address", "--per-key"),
        *("--waiting", "--waiting-for", "--tunnels"),
    }
)
"""Options that SIGHUP reads again from a configuration file; rates only if there is one worker."""

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
    """Parse the command line, and start or check its relay.

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
        return check(arguments) if arguments["--check"] else serve(arguments, signals, origin)
    # Imported only if needed, like the other parts of a policy below.
    from offset_common.policy.config import ConfiguredArguments

    required = ("--idfile",) if passed else ("--idfile", RELAY)
    source = ConfiguredArguments(page, argv, VERSION, required)
    arguments = source.read()
    return check(arguments) if arguments["--check"] else serve(arguments, signals, origin, source.read)


def check(arguments: Mapping[str, Any]) -> int:
    """Report that a relay could start with the arguments.

    Raises:
        OperatorError: it could not.
    """
    check_options(arguments)
    print("the configuration is valid")
    return 0


def serve(
    arguments: Mapping[str, Any],
    signals: Signals,
    origin: Origin,
    reread: Optional[Callable[[], Mapping[str, Any]]] = None,
) -> int:
    """Start the relay that the arguments describe, and serve.

    Args:
        arguments: by option name, as docopt returns them.
        signals: held since the start of the program.
        origin: what started the program.
        reread: reads the arguments again, if some come from a configuration file.

    Raises:
        OperatorError: it cannot start.
    """
    raise_descriptor_limit()  # before the options are read: it bounds the connections
    options = read_options(arguments)
    status = open_status(options.status, origin.sockets)
    return_large_blocks()
    identity = load_identity(arguments["--idfile"])
    make_policy = read_policy(arguments, reread)
    log = RelayLog(lines_of=options.lines_of)
    warning = exposure(arguments["--idfile"])
    if warning is not None:
        file, reason, advice = arguments["--idfile"], *warning
        log_event("identity is exposed", logging.WARNING, file=file, reason=reason, advice=advice)
    make_homes = read_homes(arguments, options.limits, origin.sockets)
    sockets = origin.sockets.listen(RELAY, options.addresses, options.limits.socket_buffer)
    origin.sockets.close_unused()
    signals.hold()
    relay = Relay(
        identity,
        sockets,
        options.limits,
        log,
        workers=options.workers,
        make_policy=make_policy,
        make_homes=make_homes,
        balancers=options.balancers,
    )
    try:
        with everything_logged(), status(relay) as retire_status:
            control = Control(relay, origin.notifier, origin.sockets, options.drain, retire_status)
            with controlled(control, relay, signals, origin.predecessor):
                relay.serve()
    except OperatorError:
        relay.close()
        raise
    except Exception as error:
        log.close()
        log = RelayLog(lines_of=options.lines_of)
        log_event("the relay failed", logging.ERROR, exc_info=error)
        log.close()
        return STATUS_SOFTWARE
    return 0


def open_status(
    address: Optional[Address], sockets: ListeningSockets
) -> Callable[[Relay], AbstractContextManager[Callable[[], None]]]:
    """Return a factory for a context manager that serves the status of a relay.

    The context manager yields a function that hands the address over to another process.

    Args:
        address: the address to listen on; None for no status, unless systemd passed sockets for it.
        sockets: the listening sockets of this process.

    Raises:
        ServiceError: the relay cannot listen there.
    """
    if address is None and not sockets.are_passed(STATUS):
        return lambda relay: nullcontext(lambda: None)
    # Imported here, so that a relay without status does not load it.
    from offset_common.status.service import StatusService

    service = StatusService(sockets.listen(STATUS, [] if address is None else [address]))

    @contextmanager
    def serve_status(relay: Relay) -> Iterator[Callable[[], None]]:
        service.start(relay, lambda key: relay.name_of(key) or "")
        try:
            yield service.retire
        finally:
            service.stop()

    return serve_status


def read_policy(
    arguments: Mapping[str, Any], reread: Optional[Callable[[], Mapping[str, Any]]] = None
) -> Callable[[PolicyRelay], Policy]:
    """Return a factory for the policy that the arguments ask for.

    Args:
        arguments: by option name, as docopt returns them.
        reread: reads them again, if some come from a configuration file.

    Raises:
        UsageError: a value is invalid.
    """
    if reread is None and all(arguments[name] is None for name in POLICY_OPTIONS):
        return lambda relay: Policy()
    # Imported here, so that a relay without such options does not load these parts.
    from offset_common.policy.options import read_policy_options
    from offset_common.policy.steering import Settings, Steering

    def settings() -> Settings:
        assert reread is not None
        new = reread()
        check_options(new, arguments)
        reloaded_options = RELOADED_OPTIONS if read_workers(arguments) == 1 else RELOADED_OPTIONS - RATES
        changed = {name: value for name, value in new.items() if value != arguments[name]}
        need_restart = sorted(changed.keys() - reloaded_options)
        reloaded = {**arguments, **{name: changed[name] for name in changed if name in reloaded_options}}
        return Settings(read_policy_options(reloaded), read_limits(reloaded), need_restart)

    options = read_policy_options(arguments)
    return partial(Steering, options=options, reread=None if reread is None else settings)


def read_homes(
    arguments: Mapping[str, Any], limits: Limits, sockets: ListeningSockets
) -> Callable[[Relay], Homes]:
    """Return a factory for the Homes of a relay.

    Args:
        arguments: by option name, as docopt returns them.
        limits: the relay's limits.
        sockets: the listening sockets of this process.

    Raises:
        OperatorError: a value is invalid, a file cannot be read, or the relay cannot listen there.
    """
    if arguments["--fleet"] is None:
        check_no_fleet(arguments)
        return lambda relay: Homes()
    # Imported here, so that a relay of one host does not load it.
    from offset_common.fleet.fleet import Fleet
    from offset_common.fleet.options import exposed_file, open_fleet, read_fleet

    options = open_fleet(
        read_fleet(arguments), lambda address: sockets.listen(FLEET, [address], limits.socket_buffer)
    )
    exposed = exposed_file(arguments["--fleet"], options.location)
    if exposed is not None:
        log_event("password is exposed", logging.WARNING, file=exposed, advice=f"run chmod 600 {exposed}")
    return partial(Fleet, options)
