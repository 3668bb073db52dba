"""The options of a relay: what their values mean, and whether the relay could start with them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Optional

from offset_common.address import Address, parse_listen_address
from offset_common.commands.descriptors import connections_for, descriptor_limit
from offset_common.errors import UsageError
from offset_common.identity import load_identity
from offset_common.networks import NetworkSet, parse_network
from offset_common.option_values import naming, read_choice, read_count, read_number
from offset_common.relay.limits import KIB, MIB, Limits
from offset_common.relay.listening import check_duplicates, overlap
from offset_common.relay.log_format import FORMATS, Format
from offset_common.relay.sockets import resolve
from offset_common.service.control import Drain

MAX_COUNT = 10_000_000
MAX_WORKERS = 256
FLEET_OPTIONS = ("--fleet-laddr", "--fleet-address", "--fleet-name")
DAY = 86400  # seconds
MAX_DRAIN = 30 * DAY


class RelayOptions(NamedTuple):
    """The options of a relay, except those of its policy and of its fleet.

    Args:
        addresses: the addresses to listen on.
        status: the address of the status server, or None.
        limits: in total, per address and per key.
        drain: the time that tunnels get to end.
        workers: the number of processes that forward.
        lines_of: the format of the log.
        balancers: the networks whose connections begin with a PROXY header.
    """

    addresses: Sequence[Address]
    status: Optional[Address]
    limits: Limits
    drain: Drain
    workers: int
    lines_of: Format
    balancers: NetworkSet


def read_options(arguments: Mapping[str, Any]) -> RelayOptions:
    """Read the options.

    Args:
        arguments: by option name, as docopt returns them.

    Raises:
        UsageError: a value is invalid.
    """
    with naming("--laddr"):
        addresses = [parse_listen_address(text) for text in arguments["--laddr"]]
        check_duplicates(addresses)
    status = read_status(arguments["--status"])
    if status is not None and status.port and any(overlap(status, address) for address in addresses):
        raise UsageError(f"--status: the port {status.port} is that of --laddr; choose another port")
    return RelayOptions(
        addresses,
        status,
        read_limits(arguments),
        read_drain(arguments),
        read_workers(arguments),
        read_log_format(arguments),
        read_balancers(arguments["--proxy-protocol"]),
    )


def check_options(arguments: Mapping[str, Any], running: Optional[Mapping[str, Any]] = None) -> None:
    """Check all options, their files and host names, as at startup; open no port and create no file.

    Args:
        arguments: by option name, as docopt returns them.
        running: the arguments of the running relay, if `arguments` are about to replace them. Files that it
            already uses are not checked, nor are its host names.

    Raises:
        OperatorError: the relay could not start.
    """
    in_use: Mapping[str, Any] = running or {}
    options = read_options(arguments)
    addresses: dict[str, Sequence[Optional[Address]]] = {
        "--laddr": options.addresses,
        "--status": [options.status],
    }
    if arguments["--fleet"] is None:
        check_no_fleet(arguments)
    elif any(arguments[name] != in_use.get(name) for name in ("--fleet", *FLEET_OPTIONS)):
        from offset_common.fleet.library import Library
        from offset_common.fleet.options import read_fleet

        fleet = read_fleet(arguments)
        addresses.update({"--fleet-laddr": [fleet.listen], "--fleet-address": [fleet.public]})
        Library()
    for option, given in addresses.items():
        if arguments[option] != in_use.get(option):
            with naming(option):
                for address in filter(None, given):
                    resolve(address)
    if arguments["--idfile"] != in_use.get("--idfile"):
        load_identity(arguments["--idfile"])
    from offset_common.policy.access import load_access
    from offset_common.policy.options import read_policy_options
    from offset_common.policy.usage import UsageFile

    policy = read_policy_options(arguments)
    if running is None and policy.access is not None:
        load_access(policy.access)
    if policy.usage is not None and policy.usage != in_use.get("--usage"):
        UsageFile(policy.usage).check()


def check_no_fleet(arguments: Mapping[str, Any]) -> None:
    """Check that a relay of one host has no option of a fleet.

    Raises:
        UsageError: there is one.
    """
    given = [name for name in FLEET_OPTIONS if arguments[name] is not None]
    if given:
        raise UsageError(f"{given[0]} needs --fleet URL, the directory of the fleet")


def read_status(text: Optional[str]) -> Optional[Address]:
    """Return the address of the status server, or None if there is none.

    Raises:
        UsageError: it is invalid.
    """
    if text is None:
        return None
    # Imported here, so that a relay without status does not load it.
    from offset_common.status.service import parse_status_address

    with naming("--status"):
        return parse_status_address(text)


def read_drain(arguments: Mapping[str, Any]) -> Drain:
    """Return the time that tunnels get to end.

    Raises:
        UsageError: it is not a number, or out of range.
    """
    stop = read_number("--drain", arguments["--drain"], 0, DAY, "seconds")
    text = arguments["--upgrade-drain"]
    return Drain(
        stop, stop if text is None else read_number("--upgrade-drain", text, 0, MAX_DRAIN, "seconds")
    )


def read_limits(arguments: Mapping[str, Any]) -> Limits:
    """Return the limits in the arguments, for the current limit of open descriptors.

    Raises:
        UsageError: one is not a number, or out of range.
    """
    connections = connections_for(descriptor_limit(), fleet=arguments["--fleet"] is not None)
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
        pending_per_key=read_count("--waiting", arguments["--waiting"], MAX_COUNT),
        pending_per_listener=read_count("--waiting-for", arguments["--waiting-for"], MAX_COUNT),
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


def read_balancers(networks: Sequence[str]) -> NetworkSet:
    """Return the networks whose connections begin with a PROXY header.

    Raises:
        UsageError: one is not a network.
    """
    with naming("--proxy-protocol"):
        return NetworkSet(map(parse_network, networks))


def read_log_format(arguments: Mapping[str, Any]) -> Format:
    """Return the format of the log; on a host of a fleet, every line includes the host's name.

    Raises:
        UsageError: the format, or the name of the host, is invalid.
    """
    lines_of = FORMATS[read_choice("--log-format", arguments["--log-format"], FORMATS)]
    if arguments["--fleet"] is None:
        return lines_of
    from offset_common.fleet.options import read_name  # only for hosts of a fleet

    return partial(lines_of, more={"host": read_name(arguments["--fleet-name"])})


def read_workers(arguments: Mapping[str, Any]) -> int:
    """Return the number of processes that forward.

    Raises:
        UsageError: it is not a number, out of range, or this system can only use one.
    """
    # Workers receive tunnels over such sockets. macOS defines the constant but does not support them.
    can_share = hasattr(socket, "SOCK_SEQPACKET") and sys.platform != "darwin"
    if arguments["--workers"] == "auto":
        return min(available_cores(), MAX_WORKERS) if can_share else 1
    workers = read_count("--workers", arguments["--workers"], MAX_WORKERS)
    if workers > 1 and not can_share:
        raise UsageError(f"--workers {workers} is not possible on this system; use --workers 1")
    return workers


def available_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # another system, or a sandbox
        return os.cpu_count() or 1
