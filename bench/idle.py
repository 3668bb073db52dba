"""Rows: listeners that only listen, and what each costs the relay in memory, CPU time and traffic."""

from __future__ import annotations

import selectors
import time

from bench.client import Client
from bench.encoding import Plaintext, encode_keepalive, seal_frames
from bench.floor import OPENING_KEY, Floor
from bench.options import Figures, Options, Report, SkippedError
from bench.processes import allow_descriptors
from bench.relay_process import RelayProcess
from offset_common.constants import KEEPALIVE_INTERVAL, MAX_KEEPALIVE_PADDING_SENT
from offset_common.identity import Identity
from offset_common.wire.messages import InitConnection, InitRole

SECONDS_A_DAY = 86400
WARM_UP = 50  # connections before memory is looked at: threads started, modules loaded
DESCRIPTORS_KEPT = 100
READ_SIZE = 64 * 1024


def measure_idle(count: int, options: Options, report: Report) -> None:
    """Measure `count` idle listeners over whole keepalive intervals, in which each side speaks once."""
    if allow_descriptors() * 4 // 5 < count + DESCRIPTORS_KEPT:
        raise SkippedError("the limit of open files (ulimit -n) is too low")
    seconds = KEEPALIVE_INTERVAL * (1 if options.quick else 2)
    with RelayProcess() as relay:
        for client in [_listener(relay) for _ in range(WARM_UP)]:
            client.close()
        time.sleep(0.5)  # the relay sees them go; measured memory would only be larger if it did not
        before = relay.memory_size()
        crowd = Crowd([_listener(relay) for _ in range(count)])
        cpu = relay.cpu_seconds()
        crowd.live(seconds)
        cpu = relay.cpu_seconds() - cpu
        memory = relay.memory_size() - before
        a_day = SECONDS_A_DAY / seconds / count
        figures: Figures = {
            "row": f"idle-{count}",
            "kilobytes": memory / count / 1000,
            "cpu_ms": cpu * 1000 / seconds * 1000 / count,
            "floor_cpu_ms": _floor_cpu_ms(count, 2.0 if options.quick else 8.0),
            "bytes_a_day": crowd.received * a_day,
            "bytes_a_day_to_relay": crowd.sent * a_day,
        }
        crowd.close()
    report(figures)


def _floor_cpu_ms(count: int, seconds: float) -> float:
    """Return what the bare floor needs to read, and write, a keepalive as often as `count` listeners say one.

    Hardly any of it is work: a process that wakes up so rarely finds little of what it needs in the cache.
    """
    keepalive = encode_keepalive(bytes(MAX_KEEPALIVE_PADDING_SENT // 2))
    gap = KEEPALIVE_INTERVAL / count
    with Floor() as floor:
        begin, cpu = time.monotonic(), floor.cpu_seconds()
        for number in range(round(seconds / gap)):
            floor.sink.sendall(seal_frames(OPENING_KEY, number, [Plaintext(b"", keepalive)], 1))
            time.sleep(max(0.0, begin + number * gap - time.monotonic()))
        cpu = floor.cpu_seconds() - cpu
    return cpu * 1000 / seconds * 1000 / count


def _listener(relay: RelayProcess) -> Client:
    return Client(relay, Identity.generate(), InitConnection(InitRole.LISTEN))


class Crowd:
    """Many listeners in one thread; each says a keepalive once an interval, evenly spread."""

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self._selector = selectors.DefaultSelector()
        self._turn = 0  # of the client that speaks next
        self.received = 0  # bytes, of all
        self.sent = 0
        for client in clients:
            client.sock.setblocking(False)
            self._selector.register(client.sock, selectors.EVENT_READ, client)

    def live(self, seconds: float) -> None:
        """Stay connected for some time."""
        begin = time.monotonic()
        gap = KEEPALIVE_INTERVAL / len(self._clients)
        turns = round(seconds / gap)
        for number in range(turns):
            while (wait := begin + number * gap - time.monotonic()) > 0:
                self._listen(wait)
            self._speak()
        while (wait := begin + seconds - time.monotonic()) > 0:
            self._listen(wait)

    def close(self) -> None:
        """Close all connections."""
        self._selector.close()
        for client in self._clients:
            client.close()

    def _speak(self) -> None:
        client = self._clients[self._turn % len(self._clients)]
        self._turn += 1
        self.sent += client.send_keepalive()

    def _listen(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            data = key.data.sock.recv(READ_SIZE)
            if not data:
                raise ConnectionError("the relay closed an idle listener")
            self.received += len(data)
            key.data.connection.receive_data(data)
            if key.data.connection.next_event(time.monotonic()) is not None:
                raise ConnectionError("an idle listener was sent more than keepalives")
