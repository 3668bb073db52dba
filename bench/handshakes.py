"""Row: handshakes, beside their four public-key operations alone."""

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
OPERATIONS = 400  # times each public-key operation is measured at once
MOST_COMPANY = 100  # times that, for which a process keeps a processor busy at most


def measure_handshakes(options: Options, report: Report) -> None:
    """Measure handshakes of 4 clients, each a process that does one after the other."""
    seconds = 0.8 if options.quick else 2.0
    cpu = operations = float("inf")
    rate = 0.0
    with RelayProcess() as relay:
        _shake_hands(relay, 0.2)  # the relay's threads start with the first ones
        for _ in options.rounds():
            operations = min(operations, _operations_in_company())
            before, begin = relay.cpu_seconds(), time.monotonic()
            count = _shake_hands(relay, seconds)
            rate = max(rate, count / (time.monotonic() - begin))
            cpu = min(cpu, (relay.cpu_seconds() - before) / count)
    report(
        {
            "row": "handshakes",
            "rate": rate,
            "cpu_us": cpu * 1e6,
            "floor_us": operations * 1e6,
            "ratio": cpu / operations,
        }
    )


def public_key_operations() -> float:
    """Return the seconds of CPU time of what the relay computes with public keys in a handshake.

    A fresh X25519 key, the exchange, one Ed25519 signature made and one checked.
    """
    signing, message = Ed25519PrivateKey.generate(), os.urandom(SIGNED_SIZE)
    verifying, signature = signing.public_key(), signing.sign(message)
    peer = X25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    begin = time.process_time()
    for _ in range(OPERATIONS):
        private = X25519PrivateKey.generate()
        private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        private.exchange(X25519PublicKey.from_public_bytes(peer))
        signing.sign(message)
        verifying.verify(signature, message)
    return (time.process_time() - begin) / OPERATIONS


def _operations_in_company() -> float:
    """Return what `public_key_operations` does while the processors are as busy as with clients.

    Two threads of one core slow each other down, so work that is measured alone cannot be compared.
    """
    company = [Child(_compute) for _ in range(CLIENTS)]
    try:
        for each in company:
            each.hear()
        return public_key_operations()
    finally:
        for each in company:
            each.stop()


def _compute(pipe: Pipe) -> None:
    pipe.send("ready")
    for _ in range(MOST_COMPANY):
        public_key_operations()
    close_pipe_and_exit(pipe)


def _shake_hands(relay: RelayProcess, seconds: float) -> int:
    """Let the clients shake hands for some time; return how often they did."""
    clients = [Child(_client, relay, seconds) for _ in range(CLIENTS)]
    try:
        for client in clients:
            client.tell()
        return sum(client.hear() for client in clients)
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
