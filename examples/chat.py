#!/usr/bin/env python3
"""A chat room that is reached by its key: every line that somebody types appears at all others.

    python examples/chat.py room relay.relay room.ident
    python examples/chat.py join relay.relay me.ident KEY_OF_THE_ROOM NAME

Each guest has a thread, and a line waits for a guest only for a moment: a guest that does not read loses its
place instead of holding up the others. Guests join again by themselves after the relay was away.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common.client import (
    ConnectionEnded,
    OffsetError,
    RelayTicket,
    Tunnel,
    connect,
    decode_key,
    encode_key,
    load_identity,
    serve,
)

MAX_LINE = 1000  # bytes
SLOW = 1.0  # seconds that a line may wait for a guest
PAUSE = 1.0  # seconds until a guest joins again


class Room:
    """The guests of one room."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guests: set[Tunnel] = set()

    def welcome(self, tunnel: Tunnel) -> None:
        """Pass on what one guest says; called in a thread for each."""
        name = clean(tunnel.receive(timeout=30))[:30] or "somebody"
        with self._lock:
            self._guests.add(tunnel)
        try:
            self._tell_all(f"{name} is here", None)
            for line in tunnel:
                self._tell_all(f"{name}: {clean(line)}", tunnel)
        finally:
            with self._lock:
                self._guests.discard(tunnel)
            self._tell_all(f"{name} has left", None)

    def _tell_all(self, line: str, speaker: object) -> None:
        with self._lock:
            guests = list(self._guests)
        for guest in guests:
            if guest is not speaker:
                try:
                    guest.send(line.encode(), SLOW)
                except (OffsetError, TimeoutError):
                    guest.abort()


def clean(line: bytes) -> str:
    """Return the text of a line without anything that could change a terminal."""
    return "".join(filter(str.isprintable, line[:MAX_LINE].decode("utf-8", "replace")))


class Guest:
    """The program of one guest: joins a room again and again.

    Args:
        words: the arguments after `join`.
    """

    def __init__(self, words: list[str]) -> None:
        self._ticket, self._identity = RelayTicket.load(words[0]), load_identity(words[1])
        self._key, self._name = decode_key(words[2], 32), words[3]
        self._tunnel: Tunnel | None = None

    def run(self) -> None:
        """Print what the others say, until the end of the input."""
        threading.Thread(target=self._listen, daemon=True).start()
        for line in sys.stdin:
            try:
                if self._tunnel is None:
                    raise ConnectionEnded("not in the room")
                self._tunnel.send(line.strip().encode())
            except ConnectionEnded:
                print("* this line was not sent", flush=True)
        if self._tunnel is not None:
            self._tunnel.close()

    def _listen(self) -> None:
        while True:
            try:
                with connect(self._ticket, self._identity, self._key, end_to_end=True) as tunnel:
                    tunnel.send(self._name.encode())
                    self._tunnel = tunnel
                    for line in tunnel:
                        print(clean(line), flush=True)
            except OffsetError as error:
                print(f"* {error}", flush=True)
            self._tunnel = None
            time.sleep(PAUSE)


def main(words: list[str]) -> None:
    """Run a room, or join one."""
    if words[0] == "join":
        Guest(words[1:]).run()
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    identity = load_identity(words[2])
    print(encode_key(identity.public_key), flush=True)
    serve(RelayTicket.load(words[1]), identity, Room().welcome, allow=None)  # or a set of keys


if __name__ == "__main__":
    if sys.argv[1:2] not in (["room"], ["join"]) or len(sys.argv) != (4 if sys.argv[1] == "room" else 6):
        sys.exit("usage: chat.py room TICKET IDENTITY | join TICKET IDENTITY KEY NAME")
    try:
        main(sys.argv[1:])
    except OffsetError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
