#!/usr/bin/env python3
"""A chat room that is reached by its key: every line that a guest types is shown to all others.

Usage:
  chat.py room <ticket> <identity>
  chat.py join <ticket> <identity> <key-of-the-room> <name>

Each guest has a thread, and a line waits for a guest only for a moment: a guest that does not read loses its
place instead of holding up the others. Guests rejoin on their own when the relay is back.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common import __version__
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
from offset_common.command_line import parse, run

MAX_LINE = 1000  # bytes
SLOW = 1.0  # seconds that a line may wait for a guest
PAUSE = 1.0  # seconds until a guest joins again


class Room:
    """The guests of one room."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guests: set[Tunnel] = set()

    def welcome(self, tunnel: Tunnel) -> None:
        """Send the lines of one guest to all others; called in a thread for each guest."""
        name = clean(tunnel.receive(timeout=30))[:30] or "somebody"
        with self._lock:
            self._guests.add(tunnel)
        try:
            self._send_to_others(f"{name} is here", None)
            for line in tunnel:
                self._send_to_others(f"{name}: {clean(line)}", tunnel)
        finally:
            with self._lock:
                self._guests.discard(tunnel)
            self._send_to_others(f"{name} has left", None)

    def _send_to_others(self, line: str, speaker: object) -> None:
        with self._lock:
            guests = list(self._guests)
        for guest in guests:
            if guest is not speaker:
                try:
                    guest.send(line.encode(), SLOW)
                except (OffsetError, TimeoutError):
                    guest.abort()


def clean(line: bytes) -> str:
    """Return the text of a line without anything that could control a terminal."""
    return "".join(filter(str.isprintable, line[:MAX_LINE].decode("utf-8", "replace")))


class Guest:
    """The program of one guest: joins the room with that key, and rejoins when disconnected."""

    def __init__(self, ticket: RelayTicket, identity: Identity, key: bytes, name: str) -> None:
        self._ticket, self._identity = ticket, identity
        self._key, self._name = key, name
        self._tunnel: Tunnel | None = None

    def run(self) -> None:
        """Send the lines of the input and print those of the others, until the input ends."""
        threading.Thread(target=self._listen, daemon=True).start()
        for line in sys.stdin:
            tunnel = self._tunnel  # the other thread changes it
            try:
                if tunnel is None:
                    raise ConnectionEnded("not in the room")
                tunnel.send(line.strip().encode())
            except OffsetError:
                print("* this line was not sent", flush=True)
        tunnel = self._tunnel
        if tunnel is not None:
            tunnel.close()

    def _listen(self) -> None:
        reported = ""
        while True:
            try:
                with connect(self._ticket, self._identity, self._key, end_to_end=True) as tunnel:
                    tunnel.send(self._name.encode())
                    self._tunnel, reported = tunnel, ""
                    for line in tunnel:
                        print(clean(line), flush=True)
            except OffsetError as error:
                if str(error) != reported:
                    reported = str(error)
                    print(f"* {error}; trying again", flush=True)
            self._tunnel = None
            time.sleep(PAUSE)


def main() -> None:
    """Run a room, or join one."""
    words = parse(__doc__ or "", sys.argv[1:], __version__, options_first=True)
    ticket, identity = RelayTicket.load(words["<ticket>"]), load_identity(words["<identity>"])
    if words["join"]:
        key = decode_key(words["<key-of-the-room>"], 32, "the key of the room")
        Guest(ticket, identity, key, words["<name>"]).run()
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(encode_key(identity.public_key), flush=True)
    serve(ticket, identity, Room().welcome, allow=None)  # or a set of keys


if __name__ == "__main__":
    sys.exit(run("chat", main))
