"""Compare examples/small_relay.py with the real relay, following the steps of docs/small-relay.md.

Usage:
  small_relay [--quick] [STEP...]
  small_relay --list
  small_relay -h | --help

  --quick     Measure each step once, and shorter.
  --list      List the steps and exit.
  -h, --help  Show this help.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection as Pipe
from typing import Any, Callable, Optional

from bench.canary import OTHER_ADDRESS, SAME_ADDRESS, BulkTraffic, Canary
from bench.client import Client, open_tunnels
from bench.encoding import encode_as_released, make_plaintexts
from bench.idle import Crowd
from bench.options import Options
from bench.processes import Child
from bench.relay_process import RelayProcess
from bench.tunnels import relay_series
from offset_common import __version__
from offset_common.address import Address
from offset_common.channel.connection import Connection
from offset_common.client import Deadline, Incoming, Listener, OffsetError, Tunnel, connect, listen
from offset_common.command_line import did_you_mean, parse, run
from offset_common.commands.descriptors import raise_descriptor_limit
from offset_common.constants import KEEPALIVE_INTERVAL, MAX_PADDING_SENT
from offset_common.errors import UsageError
from offset_common.identity import Identity
from offset_common.tickets import RelayTicket
from offset_common.tools.pair_check import wait_for_incoming
from offset_common.wire.messages import InitConnection, InitRole

SMALL, REAL = "examples/small_relay.py", "strelay.py"
IDLE = 450  # listeners; the small relay has 500 places
BURST = 300  # connections that start their handshake at once
BURST_SECONDS = 1.5
BUSY_TUNNELS, BUSY_SIZE = 50, 64 * 1024  # tunnels; bytes of each of their messages
SILENT = 600  # connections that send nothing
PAUSE = 40.0  # seconds that a reader doesn't read
UNREAD_MESSAGES, UNREAD_SIZE = 400, 50_000  # messages in that time; bytes of each
TIMEOUT = 30.0  # seconds for a step of a node
MAX_MESSAGES = 20_000  # in a round, because the far end sends no keepalives during it
MESSAGE_SIZES = (64, 1024, 64 * 1024)  # bytes

Figures = dict[str, str]


def measure_threads(script: str, options: Options) -> Figures:
    """Keep idle listeners connected for a keepalive interval."""
    with RelayProcess(script=script) as relay:
        Client(relay, Identity.generate()).close()
        before = relay.memory_size()
        clients = [Client(relay, Identity.generate(), InitConnection(InitRole.LISTEN)) for _ in range(IDLE)]
        crowd = Crowd(clients)
        crowd.run(2.0)
        cpu = relay.cpu_seconds()
        crowd.run(KEEPALIVE_INTERVAL)
        figures = {
            "threads": str(relay.threads()),
            "memory of each listener": f"{(relay.memory_size() - before) / IDLE / 1000:.1f} kB",
            "CPU time in a second": f"{(relay.cpu_seconds() - cpu) * 1000 / KEEPALIVE_INTERVAL:.1f} ms",
        }
        crowd.close()
    return figures


def measure_handshakes(script: str, options: Options) -> Figures:
    """Measure a tunnel's round trips while many connections start their handshake at the same time."""
    worst = []
    with RelayProcess(script=script) as relay:
        (tunnel,) = open_tunnels(relay, 1)
        with Canary(tunnel) as canary:
            quiet = canary.best_round_trips(*_count(options))
            for _ in options.rounds():
                burst = Child(_start_handshakes, relay)
                burst.receive()
                burst.send()
                worst.append(canary.paced_round_trips(BURST_SECONDS, 0.0)[-1])
                burst.stop()
    return {
        "round trip alone, p99": _milliseconds(quiet),
        "longest in a burst": _milliseconds(sorted(worst), 0.5),
    }


def measure_forwarding(script: str, options: Options) -> Figures:
    """Measure the CPU time of each message through one tunnel."""
    figures = {}
    with RelayProcess(script=script) as relay:
        tunnels = open_tunnels(relay, 1)
        for size in MESSAGE_SIZES:
            plaintexts = make_plaintexts(encode_as_released, size, MAX_PADDING_SENT)
            count = min(MAX_MESSAGES, options.load_size // (size + 200))
            series = relay_series(relay, tunnels, plaintexts, count, verify=False)
            for _ in options.rounds():
                series.run()
            figures[f"message of {size} B"] = f"{series.cpu * 1e6:.1f} us"
    return figures


def measure_slow_reader(script: str, options: Options) -> Figures:
    """Let one end of a tunnel read nothing for longer than the idle timeout, and then everything."""
    with RelayProcess(script=script) as relay:
        ticket, callee = RelayTicket(relay.public_key, Address("127.0.0.1", relay.port)), Identity.generate()
        arrived = 0
        with listen(ticket, callee) as listener:
            near, incoming = _connect(listener)
            with near, incoming.accept() as far, contextlib.suppress(OffsetError):
                sender = threading.Thread(target=_send_all, args=(near,), daemon=True)
                sender.start()
                time.sleep(PAUSE)
                while arrived < UNREAD_MESSAGES:
                    far.receive(TIMEOUT)
                    arrived += 1
    return {f"arrived after {PAUSE:.0f} s unread": f"{arrived} of {UNREAD_MESSAGES}"}


def measure_fairness(script: str, options: Options) -> Figures:
    """Measure a tunnel's round trips beside busy tunnels of another address."""
    with RelayProcess(script=script) as relay:
        (tunnel,) = open_tunnels(relay, 1, SAME_ADDRESS)
        busy = open_tunnels(relay, BUSY_TUNNELS, OTHER_ADDRESS)
        with Canary(tunnel) as canary, BulkTraffic(busy, BUSY_SIZE):
            times = canary.best_round_trips(*_count(options))
    return {"round trip, p50": _milliseconds(times, 0.5), "round trip, p99": _milliseconds(times)}


def measure_admission(script: str, options: Options) -> Figures:
    """Measure how long a newcomer's handshake takes while another address holds silent connections."""
    with RelayProcess(script=script) as relay, ExitStack() as opened:
        for _ in range(SILENT):
            opened.enter_context(
                socket.create_connection(("127.0.0.1", relay.port), 30.0, source_address=(OTHER_ADDRESS, 0))
            )
        begin = time.monotonic()
        Client(relay, Identity.generate()).close()
        return {"a newcomer's handshake": f"{(time.monotonic() - begin) * 1000:,.0f} ms"}


Measure = Callable[[str, Options], Figures]
STEPS: dict[str, Measure] = {
    "threads": measure_threads,
    "handshakes": measure_handshakes,
    "forwarding": measure_forwarding,
    "slow-reader": measure_slow_reader,
    "fairness": measure_fairness,
    "admission": measure_admission,
}


def compare(arguments: dict[str, Any]) -> None:
    """Measure the steps that the arguments name, and print a line for each figure."""
    if arguments["--list"]:
        print("\n".join(STEPS))
        return
    names = arguments["STEP"] or list(STEPS)
    for name in names:
        if name not in STEPS:
            raise UsageError(f"unknown step {name!r}{did_you_mean(name, STEPS)}")
    encode_as_released(b"", b"")  # fails now if pycapnp is missing
    raise_descriptor_limit()
    options = Options(quick=arguments["--quick"], verify=False)
    print(f"{'':<14}{'':<32}{'small':>14}{'real':>14}")
    for name in names:
        small, real = (STEPS[name](script, options) for script in (SMALL, REAL))
        for label, figure in small.items():
            print(f"{name:<14}{label:<32}{figure:>14}{real[label]:>14}", flush=True)


def _connect(listener: Listener) -> tuple[Tunnel, Incoming]:
    """Connect to a listener; the relay may handle a connect before the listen, and close it."""
    deadline = Deadline(TIMEOUT)
    while deadline.left():
        near = connect(listener.relay, Identity.generate(), listener.identity.public_key)
        incoming = wait_for_incoming(listener, near, deadline)
        if incoming is not None:
            return near, incoming
        near.close()
    raise UsageError("the relay never announced a connect")


def _count(options: Options) -> tuple[int, int]:
    return (300, 1) if options.quick else (1000, 3)


def _milliseconds(times: Sequence[float], quantile: float = 0.99) -> str:
    return f"{times[min(len(times) - 1, int(len(times) * quantile))] * 1000:.2f} ms"


def _start_handshakes(pipe: Pipe, relay: RelayProcess) -> None:
    """Send the first two frames on many connections at once."""
    first = Connection(Identity.generate(), 0.0, relay.public_key).data_to_send()
    socks = [socket.create_connection(("127.0.0.1", relay.port)) for _ in range(BURST)]
    time.sleep(0.5)  # for the relay to accept them
    pipe.send("ready")
    pipe.recv()
    for sock in socks:
        sock.sendall(first)
    pipe.recv()


def _send_all(tunnel: Tunnel) -> None:
    with contextlib.suppress(OffsetError):
        for _ in range(UNREAD_MESSAGES):
            tunnel.send(bytes(UNREAD_SIZE))


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the comparison; return the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    return run("bench.small_relay", lambda: compare(parse(__doc__ or "", arguments, __version__)))


if __name__ == "__main__":
    sys.exit(main())
