"""A canary beside an attack: it checks that other nodes are served, and measures the relay's memory.

    python -m tests.support.canary HOST PORT RELAY_KEY RELAY_PID

It runs as a process, so that its timings don't include the attacker's work. It exchanges messages through a
tunnel that was made before the attack. Repeatedly, a pair of new keys listens, connects, accepts and
exchanges a message. It writes a line of JSON when it has started, and its report when standard input ends.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

from offset_common.wire.messages import InitRole
from tests.support.node import Endpoint, Node, make_tunnel
from tests.support.peer import Peer
from tests.support.process import ROOT
from tests.support.relay_process import RelayProcess, resident_bytes

ROUND_TRIP_PAUSE = 0.01  # seconds between the messages of the tunnel
NEWCOMER_PAUSE = 0.2  # seconds between pairs of newcomers
MAX_CONNECTS = 50  # of one pair, until its listener is known to the relay
KEEPALIVE_EVERY = 256  # round trips


class Report(NamedTuple):
    """The measurements of a canary; times in seconds."""

    round_trips: list[float]
    tunnel_fault: str
    newcomers: list[float]
    newcomer_faults: list[str]
    memory: int  # most resident bytes of the relay

    @property
    def p99(self) -> float:
        """Return the 99th percentile of the round trips."""
        return sorted(self.round_trips)[len(self.round_trips) * 99 // 100]

    @property
    def figures(self) -> str:
        """Return the report in one line."""
        return (
            f"{len(self.newcomers)} newcomers, slowest {max(self.newcomers) * 1000:.0f} ms; "
            f"{len(self.round_trips)} round trips, p99 {self.p99 * 1000:.1f} ms, "
            f"slowest {max(self.round_trips) * 1000:.0f} ms; memory {self.memory / (1 << 20):.1f} MiB"
        )


class Canary:
    """The canary's process, seen from the test.

    Args:
        relay: the relay to watch.
    """

    def __init__(self, relay: RelayProcess) -> None:
        host, port = relay.endpoint().address
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, host, str(port), relay.public_key.hex(), str(relay.pid)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the canary did not start"

    def finish(self) -> Report:
        """Make it test a last pair of newcomers; return its report."""
        out, _ = self._process.communicate("", 40.0)
        return Report(**json.loads(out.splitlines()[-1]))

    def kill(self) -> None:
        """End it without a report."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


class _Tunnel(threading.Thread):
    """Exchanges messages through one tunnel; measures each round trip and the relay's memory."""

    def __init__(self, relay: Endpoint, pid: int) -> None:
        super().__init__(daemon=True)
        self.round_trips: list[float] = []
        self.fault = ""
        self.memory = 0
        self._pid = pid
        self._stopping = threading.Event()
        self._caller, self._callee = Node(relay), Node(relay)
        self._listener = self._callee.listen()
        self._near, self._far = make_tunnel(self._caller, self._callee, self._listener)

    def run(self) -> None:
        try:
            while not (self.round_trips and self._stopping.wait(ROUND_TRIP_PAUSE)):
                self._exchange(len(self.round_trips).to_bytes(8, "big"))
                if len(self.round_trips) % KEEPALIVE_EVERY == 0:
                    self._listener.send_keepalive()
                self.memory = max(self.memory, resident_bytes(self._pid))
            while select.select([self._listener.sock], [], [], 0)[0]:
                self._listener.receive_any()  # raises if the relay has closed the listener
        except Exception as error:
            self.fault = f"after {len(self.round_trips)} round trips: {error!r}"

    def stop(self) -> None:
        """Stop after the current exchange."""
        self._stopping.set()
        self.join(10.0)
        if self.is_alive():
            self.fault = self.fault or "a message doesn't arrive"

    def _exchange(self, message: bytes) -> None:
        start = time.monotonic()
        self._near.send(message)
        assert self._far.receive() == message
        self._far.send(message)
        assert self._near.receive() == message
        self.round_trips.append(time.monotonic() - start)


def serve_newcomers(relay: Endpoint) -> None:
    """Make a pair of new keys listen, connect, accept and exchange a message."""
    with Node(relay) as callee, Node(relay) as caller:
        listener = callee.open().init(InitRole.LISTEN)
        near = _connect(caller, callee.public_key, listener)
        far = callee.accept(caller.public_key)
        near.send(b"there")
        assert far.receive() == b"there"
        far.send(b"and back")
        assert near.receive() == b"and back"


def _connect(caller: Node, key: bytes, listener: Peer) -> Peer:
    for _ in range(MAX_CONNECTS):
        near = caller.connect(key)
        ready, _, _ = select.select([near.sock, listener.sock], [], [], 5.0)
        if listener.sock in ready:
            assert listener.incoming() == caller.public_key
            return near
        assert near.sock in ready, "neither announced nor closed"
        assert near.messages_until_end() == []
        near.close()
    raise AssertionError("the relay never announced a connect to the listener")


def main() -> None:
    """Watch until standard input ends, and report."""
    host, port, key, pid = sys.argv[1:]
    relay = Endpoint((host, int(port)), bytes.fromhex(key))
    seconds: list[float] = []
    faults: list[str] = []

    def time_newcomers() -> None:
        start = time.monotonic()
        try:
            serve_newcomers(relay)
        except Exception as error:
            faults.append(f"after {time.monotonic() - start:.2f} s: {error!r}")
        seconds.append(time.monotonic() - start)

    tunnel = _Tunnel(relay, int(pid))
    tunnel.start()
    time_newcomers()
    write({"ready": True})
    while not select.select([sys.stdin], [], [], NEWCOMER_PAUSE)[0]:
        time_newcomers()
    time_newcomers()
    tunnel.stop()
    report = Report(tunnel.round_trips, tunnel.fault, seconds, faults, tunnel.memory)
    write(report._asdict())
    os._exit(0)


def write(value: dict[str, Any]) -> None:
    """Write one line of JSON."""
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
