#!/usr/bin/env python3
"""Send files to a machine by its key.

    python examples/send_file.py receive relay.relay home.ident DIRECTORY KEY_OF_THE_SENDER
    python examples/send_file.py send relay.relay laptop.ident KEY_OF_THE_RECEIVER FILE

A file is a header with its name, size and SHA-256, then its content, then an answer. The receiver stores it
under its name only when it is complete and correct, and never over an existing file. A sender that vanishes
or lies leaves nothing. The sender tries again while the relay or the receiver is away.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common.client import (
    ConnectionEnded,
    Identity,
    OffsetError,
    RelayTicket,
    Tunnel,
    connect,
    decode_key,
    encode_key,
    load_identity,
    serve,
)

CHUNK = 256 * 1024  # bytes in one message
MAX_SIZE = 10 * 1024**3  # bytes of a file
PATIENCE = 60.0  # seconds without a message
ATTEMPTS = 20
PAUSE = 1.0  # seconds between attempts


def receive_file(directory: Path, tunnel: Tunnel) -> None:
    """Store the file of one sender; called in a thread for each."""
    try:
        header = json.loads(tunnel.receive(PATIENCE))
        name, size, digest = str(header["name"]), int(header["size"]), str(header["sha256"])
        if Path(name).name != name or name.startswith(".") or not 0 <= size <= MAX_SIZE:
            raise ValueError("the name or size is not allowed")
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".part-") as part:
            found = hashlib.sha256()
            while size:
                data = tunnel.receive(PATIENCE)
                if not 0 < len(data) <= size:
                    raise ValueError("more bytes than announced")
                size -= len(data)
                found.update(data)
                part.write(data)
            if found.hexdigest() != digest:
                raise ValueError("the content is damaged")
            part.flush()
            os.fsync(part.fileno())
            os.link(part.name, directory / name)
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        logging.info("refused a file: %s", error)
        tunnel.send(b"refused: " + str(error).encode()[:500])
    else:
        logging.info("stored %s", name)
        tunnel.send(b"stored")


def send_file(tunnel: Tunnel, path: Path) -> str:
    """Send one file; return the answer."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        size = 0
        while data := file.read(CHUNK):
            digest.update(data)
            size += len(data)
        file.seek(0)
        tunnel.send(json.dumps({"name": path.name, "size": size, "sha256": digest.hexdigest()}).encode())
        with suppress(ConnectionEnded):  # the answer says why
            while data := file.read(CHUNK):
                tunnel.send(data, PATIENCE)
    return tunnel.receive(PATIENCE).decode()


def send(ticket: RelayTicket, identity: Identity, key: bytes, path: Path) -> str:
    """Send one file; try again while the receiver cannot be reached or the connection breaks."""
    for attempt in range(ATTEMPTS):
        try:
            with connect(ticket, identity, key, end_to_end=True) as tunnel:
                return send_file(tunnel, path)
        except ConnectionEnded as error:
            if attempt == ATTEMPTS - 1:
                raise
            print(f"{error}; trying again", file=sys.stderr, flush=True)
            time.sleep(PAUSE)
    raise AssertionError


def main(role: str, ticket_file: str, identity_file: str, first: str, second: str) -> None:
    """Receive files, or send one."""
    ticket, identity = RelayTicket.load(ticket_file), load_identity(identity_file)
    if role == "receive":
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        print(encode_key(identity.public_key), flush=True)
        serve(ticket, identity, partial(receive_file, Path(first)), allow=[decode_key(second, 32)])
    answer = send(ticket, identity, decode_key(first, 32), Path(second))
    if answer != "stored":
        sys.exit(answer)


if __name__ == "__main__":
    if len(sys.argv) != 6 or sys.argv[1] not in ("receive", "send"):
        sys.exit("usage: send_file.py receive TICKET IDENTITY DIRECTORY KEY | send TICKET IDENTITY KEY FILE")
    try:
        main(*sys.argv[1:])
    except (OffsetError, TimeoutError, OSError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
