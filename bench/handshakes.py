"""Row: handshakes, compared with their four public-key operations alone."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection as Pipe

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.client import Client
from bench.options import Options, Report
from bench.processes import Child, close_pipe_and_exit
from bench.relay_process import RelayProcess
from offset_common.identity import Identity

CLIENTS = 4  # processes
SIGNED_SIZE = 80  # bytes: section 4 of docs/protocol.md
REPETITIONS = 400  # of the public-key operations in one measurement
MAX_LOAD_REPETITIONS = 40_000  # of the operations in each process that only keeps the processors busy


def measure_handshakes(options: Options, report: Report) -> None:
    """Measure the handshakes of 4 client processes, each of which does one at a time."""
    seconds = 0.8 if options.quick else 2.0
    cpu = floor = float("inf")
    rate = 0.0
    with RelayProcess() as relay:
        _run_clients(relay, 0.2)  # the relay starts its threads with the first handshakes
        for _ in options.rounds():
            floor = min(floor, _floor_under_load())
            cpu_before, begin = relay.cpu_seconds(), time.monotonic()
            count = _run_clients(relay, seconds)
            rate = max(rate, count / (time.monotonic() - begin))
            cpu = min(cpu, (relay.cpu_seconds() - cpu_before) / count)
    report(
        {
            "row": "handshakes",
            "rate": rate,
            "cpu_us": cpu * 1e6,
            "floor_us": floor * 1e6,
            "ratio": cpu / floor,
        }
    )


def public_key_operations(repetitions: int) -> float:
    """Return the CPU time in seconds of the public-key operations of one handshake.

    They are a new X25519 key, the exchange, one Ed25519 signature and one verification.
    """
    signing, message = Ed25519PrivateKey.generate(), os.urandom(SIGNED_SIZE)
    verifying, signature = signing.public_key(), signing.sign(message)
    peer = X25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    begin = time.process_time()
    for _ in range(repetitions):
        private = X25519PrivateKey.generate()
        private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        private.exchange(X25519PublicKey.from_public_bytes(peer))
        signing.sign(message)
        verifying.verify(signature, message)
    return (time.process_time() - begin) / repetitions


def _floor_under_load() -> float:
    """Return the time of `public_key_operations` while the processors are as busy as with clients.

    Threads that share a processor core slow each other down, so an idle machine would not be comparable.
    """
    load = [Child(_compute) for _ in range(CLIENTS)]
    try:
        for child in load:
            child.receive()
        return public_key_operations(REPETITIONS)
    finally:
        for child in load:
            child.stop()


def _compute(pipe: Pipe) -> None:
    pipe.send("ready")
    public_key_operations(MAX_LOAD_REPETITIONS)
    close_pipe_and_exit(pipe)


def _run_clients(relay: RelayProcess, seconds: float) -> int:
    """Run the clients for some time; return the number of handshakes."""
    clients = [Child(_client, relay, seconds) for _ in range(CLIENTS)]
    try:
        for client in clients:
            client.send()
        return sum(client.receive() for client in clients)
    finally:
        for client in clients:
            client.stop()


def _client(pipe: Pipe, relay: RelayProcess, seconds: float) -> None:
    identity = Identity.generate()
    pipe.recv()
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        Client(relay, identity).close()
        count += 1
    pipe.send(count)
    close_pipe_and_exit(pipe)
