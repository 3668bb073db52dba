"""Rows: the memory, CPU time and traffic of idle listeners."""

from __future__ import annotations

import selectors
import time

from bench.client import Client
from bench.encoding import Plaintext, encode_keepalive, seal_frames
from bench.floor import OPENING_KEY, Floor
from bench.options import Figures, Options, Report, SkippedError
from bench.relay_process import RelayProcess
from offset_common.commands.descriptors import raise_descriptor_limit
from offset_common.constants import KEEPALIVE_INTERVAL, MAX_KEEPALIVE_PADDING_SENT
from offset_common.identity import Identity
from offset_common.wire.messages import InitConnection, InitRole

SECONDS_PER_DAY = 86400
WARM_UP = 50  # connections before memory is measured, so that threads and modules are not counted
SPARE_DESCRIPTORS = 100
SETTLE = 3.0  # seconds, after which the relay treats all listeners as idle
LISTENERS_PER_ADDRESS = 1000  # below the relay's limit for one address
READ_SIZE = 64 * 1024


def measure_idle(count: int, options: Options, report: Report) -> None:
    """Measure idle listeners for whole keepalive intervals; each side sends once in an interval."""
    if raise_descriptor_limit() * 4 // 5 < count + SPARE_DESCRIPTORS:
        raise SkippedError("the limit of open files (ulimit -n) is too low; raise it")
    seconds = KEEPALIVE_INTERVAL * (1 if options.quick else 2)
    with RelayProcess() as relay:
        for client in [connect_listener(relay, number) for number in range(WARM_UP)]:
            client.close()
        time.sleep(0.5)  # for the relay to close them; if it is late, the measured memory is only larger
        memory_before = relay.memory_size()
        crowd = Crowd([connect_listener(relay, number) for number in range(count)])
        crowd.run(SETTLE)
        cpu_before = relay.cpu_seconds()
        sent, received = crowd.run(seconds)
        cpu = relay.cpu_seconds() - cpu_before
        per_day = SECONDS_PER_DAY / seconds / count
        figures: Figures = {
            "row": f"idle-{count}",
            "kilobytes": (relay.memory_size() - memory_before) / count / 1000,
            "cpu_ms": cpu * 1000 / seconds,
            "floor_cpu_ms": _floor_cpu_ms(count, 2.0 if options.quick else 8.0),
            "bytes_a_day": received * per_day,
            "bytes_a_day_to_relay": sent * per_day,
        }
        crowd.close()
    report(figures)


def _floor_cpu_ms(count: int, seconds: float) -> float:
    """Return the CPU time per second, in ms, that the floor needs for the keepalives of `count` listeners.

    Little of it is work: a process that seldom wakes up finds little of its data in the processor's cache.
    """
    keepalive = encode_keepalive(bytes(MAX_KEEPALIVE_PADDING_SENT // 2))
    gap = KEEPALIVE_INTERVAL / count
    with Floor() as floor:
        begin, cpu_before = time.monotonic(), floor.cpu_seconds()
        for number in range(round(seconds / gap)):
            floor.input.sendall(seal_frames(OPENING_KEY, number, [Plaintext(b"", keepalive)], 1))
            time.sleep(max(0.0, begin + number * gap - time.monotonic()))
        return (floor.cpu_seconds() - cpu_before) * 1000 / seconds


def connect_listener(relay: RelayProcess, number: int) -> Client:
    """Return the listener with a number; a thousand share an address."""
    source = f"127.0.0.{1 + number // LISTENERS_PER_ADDRESS}"
    return Client(relay, Identity.generate(), InitConnection(InitRole.LISTEN), source)


class Crowd:
    """Many listeners in one thread; each sends one keepalive in each interval, evenly spread."""

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self._selector = selectors.DefaultSelector()
        self._next_sender = 0
        for client in clients:
            client.sock.setblocking(False)
            self._selector.register(client.sock, selectors.EVENT_READ, client)

    def run(self, seconds: float) -> tuple[int, int]:
        """Stay connected for some time; return the bytes that all listeners sent and received."""
        begin = time.monotonic()
        gap = KEEPALIVE_INTERVAL / len(self._clients)
        sent = received = 0
        for number in range(round(seconds / gap)):
            received += self._read_until(begin + number * gap)
            sent += self._clients[self._next_sender].send_keepalive()
            self._next_sender = (self._next_sender + 1) % len(self._clients)
        return sent, received + self._read_until(begin + seconds)

    def close(self) -> None:
        """Close all connections."""
        self._selector.close()
        for client in self._clients:
            client.close()

    def _read_until(self, end: float) -> int:
        received = 0
        while (timeout := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(timeout):
                data = key.data.sock.recv(READ_SIZE)
                if not data:
                    raise ConnectionError("the relay closed an idle listener")
                received += len(data)
                key.data.connection.receive_data(data)
                if key.data.connection.next_event(time.monotonic()) is not None:
                    raise ConnectionError("the relay sent an idle listener more than keepalives")
        return received
