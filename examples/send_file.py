#!/usr/bin/env python3
"""Send files to a machine by its key.

Usage:
  send_file.py receive <ticket> <identity> <directory> <key-of-the-sender>
  send_file.py send <ticket> <identity> <key-of-the-receiver> <file>

A file is a header with its name, size and SHA-256, then its content, then an answer. The receiver stores it
under its name only when it is complete and correct, and never over an existing file. A sender that vanishes
or lies leaves nothing; a receiver that is stopped may leave a file .part-*, which you can delete. The sender
tries again while the relay or the receiver is unreachable.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common import __version__
from offset_common.client import (
    ConnectionEnded,
    Identity,
    OffsetError,
    PeerError,
    RelayTicket,
    Tunnel,
    connect,
    decode_key,
    encode_key,
    load_identity,
    serve,
)
from offset_common.command_line import parse, run

CHUNK = 256 * 1024  # bytes in one message
MAX_SIZE = 10 * 1024**3  # bytes of a file
PATIENCE = 60.0  # seconds without a message
ATTEMPTS = 20
PAUSE = 1.0  # seconds between attempts


def receive_file(directory: Path, tunnel: Tunnel) -> None:
    """Store the file of one sender; called in a thread for each sender."""
    try:
        header = json.loads(tunnel.receive(PATIENCE))
        name, size, digest = str(header["name"]), int(header["size"]), str(header["sha256"])
        if Path(name).name != name or name.startswith(".") or not 0 <= size <= MAX_SIZE:
            raise ValueError("the name or size is not allowed")
        if (directory / name).exists():
            raise FileExistsError
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
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError) as error:
        logging.info("refused a file: %s", reason_of(error))
        tunnel.send(f"refused: {reason_of(error)}".encode()[:500])
    else:
        logging.info("stored %s", name)
        tunnel.send(b"stored")


def reason_of(error: Exception) -> str:
    """Return the reason to send to the sender, without paths of this machine."""
    if isinstance(error, FileExistsError):
        return "a file with that name exists there"
    return getattr(error, "strerror", None) or str(error)


def header_of(path: Path, file: BinaryIO) -> dict[str, str | int]:
    """Return the header of a file."""
    digest, size = hashlib.sha256(), 0
    while data := file.read(CHUNK):
        digest.update(data)
        size += len(data)
    return {"name": path.name, "size": size, "sha256": digest.hexdigest()}


def send_file(tunnel: Tunnel, header: dict[str, str | int], file: BinaryIO) -> str:
    """Send one file; return the answer."""
    file.seek(0)
    with suppress(ConnectionEnded):  # the answer says why
        tunnel.send(json.dumps(header).encode())
        while data := file.read(CHUNK):
            tunnel.send(data, PATIENCE)
    return tunnel.receive(PATIENCE).decode()


def send(ticket: RelayTicket, identity: Identity, key: bytes, path: Path) -> None:
    """Send one file; try again while the receiver cannot be reached or the connection breaks."""
    attempts, reported = 0, ""
    with path.open("rb") as file:
        header = header_of(path, file)
        while True:
            try:
                with connect(ticket, identity, key, end_to_end=True) as tunnel:
                    answer = send_file(tunnel, header, file)
                break
            except (ConnectionEnded, PeerError) as error:  # PeerError: silence, among others
                attempts += 1
                if attempts == ATTEMPTS:
                    raise
                if str(error) != reported:
                    reported = str(error)
                    print(f"{error}; trying again", file=sys.stderr, flush=True)
                time.sleep(PAUSE)
    if answer != "stored":
        sys.exit(answer)
    print(f"sent {path.name}, {header['size']} bytes")


def main() -> None:
    """Receive files, or send one."""
    words = parse(__doc__ or "", sys.argv[1:], __version__, options_first=True)
    ticket, identity = RelayTicket.load(words["<ticket>"]), load_identity(words["<identity>"])
    if words["receive"]:
        directory, key = Path(words["<directory>"]), decode_key(words["<key-of-the-sender>"], 32)
        if not directory.is_dir():
            sys.exit(f"there is no directory {directory}; create it first")
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        print(encode_key(identity.public_key), flush=True)
        serve(ticket, identity, partial(receive_file, directory), allow=[key])
    try:
        send(ticket, identity, decode_key(words["<key-of-the-receiver>"], 32), Path(words["<file>"]))
    except OffsetError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    sys.exit(run("send_file", main))
