"""The watch beside an attack: is everybody else served, and what does the relay's memory do?

    python -m tests.attack.watch HOST PORT RELAY_KEY PROCESS BASELINE

A process of its own, so that the attacker's work is not taken for the relay's. It keeps one tunnel open,
made before the attack, and exchanges messages through it; again and again a canary, a new pair of keys,
listens, connects, accepts and exchanges a message. One line of JSON on stdout says that it is there, one
says at the end what it saw. The end is the end of its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offset_common.wire.messages import InitRole
from tests.end_to_end.peer import Ended, Node, Peer, Place, tunnel

ROUND_TRIP_PAUSE = 0.01  # seconds between the messages of the standing tunnel
MOST_CONNECTS = 50  # of one canary
CANARY_PAUSE = 0.2  # seconds between canaries
PAGE = os.sysconf("SC_PAGE_SIZE")


class StandingTunnel(threading.Thread):
    """Exchanges messages through a tunnel until it is told to stop; measures every round trip and the memory.

    Args:
        place: the relay.
        process: the relay's process, whose resident memory is looked at.
    """

    def __init__(self, place: Place, process: int) -> None:
        super().__init__(daemon=True)
        self.round_trips: list[float] = []
        self.fault = ""
        self.most_memory = 0
        self.stopping = False
        self._statm = Path(f"/proc/{process}/statm")
        self._caller, self._callee = Node(place), Node(place)
        self._listener = self._callee.listen()
        self._near, self._far = tunnel(self._caller, self._callee, self._listener)

    def run(self) -> None:
        try:
            number = 0
            while not self.stopping:
                self._exchange(number.to_bytes(8, "big"))
                if number % 256 == 0:
                    self._listener.send_keepalive()
                number += 1
                self.look_at_memory()
                time.sleep(ROUND_TRIP_PAUSE)
            assert self._listener.sock.fileno() >= 0
            ready, _, _ = select.select([self._listener.sock], [], [], 0)
            while ready:
                self._listener.receive_any()  # a keepalive; the end raises
                ready, _, _ = select.select([self._listener.sock], [], [], 0)
        except Exception as error:
            self.fault = f"after {len(self.round_trips)} round trips: {error!r}"

    def look_at_memory(self) -> None:
        """Take note of how much is resident now."""
        with contextlib.suppress(OSError):
            self.most_memory = max(self.most_memory, int(self._statm.read_text().split()[1]) * PAGE)

    def _exchange(self, message: bytes) -> None:
        start = time.monotonic()
        self._near.send(message)
        assert self._far.receive() == message
        self._far.send(message)
        assert self._near.receive() == message
        self.round_trips.append(time.monotonic() - start)


def canary(place: Place) -> float:
    """Let a new pair listen, connect, accept and exchange a message; return the seconds it took."""
    start = time.monotonic()
    with Node(place) as callee, Node(place) as caller:
        listener = callee.open().init(InitRole.LISTEN)
        near = _connect(caller, callee.public_key, listener)
        far = callee.accept(caller.public_key)
        near.send(b"there")
        assert far.receive() == b"there"
        far.send(b"and back")
        assert near.receive() == b"and back"
    return time.monotonic() - start


def _connect(caller: Node, key: bytes, listener: Peer) -> Peer:
    """Connect, again where the listen had not taken effect."""
    for _ in range(MOST_CONNECTS):
        near = caller.connect(key)
        ready, _, _ = select.select([near.sock, listener.sock], [], [], 5.0)
        if listener.sock in ready:
            assert listener.incoming() == caller.public_key
            return near
        assert near.sock in ready, "neither announced nor closed"
        assert near.wait_for_end() == []
        near.close()
    raise AssertionError("the listen does not take effect")


def attempts(place: Place) -> Iterator[tuple[float, str]]:
    """Send one canary; yield the seconds it took, or why it failed."""
    start = time.monotonic()
    try:
        yield canary(place), ""
    except (Exception, Ended) as error:
        yield time.monotonic() - start, repr(error)


def main() -> None:
    """Watch until standard input ends, and report."""
    host, port, key, process, baseline = sys.argv[1:]
    place = Place((host, int(port)), bytes.fromhex(key))
    standing = StandingTunnel(place, int(process))
    seconds: list[float] = []
    faults: list[str] = []
    standing.start()

    def send_canary() -> None:
        for taken, fault in attempts(place):
            seconds.append(taken)
            if fault:
                faults.append(f"canary {len(seconds)} after {taken:.2f} s: {fault}")

    send_canary()
    say({"watching": True})
    while not select.select([sys.stdin], [], [], CANARY_PAUSE)[0]:
        send_canary()
    send_canary()
    standing.stopping = True
    standing.join(5.0)
    if standing.is_alive():
        standing.fault = standing.fault or "a message of the standing tunnel does not come"
    say(
        {
            "canaries": seconds,
            "canary_faults": faults,
            "tunnel_fault": standing.fault,
            "round_trips": standing.round_trips,
            "memory_growth": standing.most_memory - int(baseline),
        }
    )
    sys.stdout.flush()
    os._exit(0)


def say(what: dict[str, Any]) -> None:
    """Write one line of JSON."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
