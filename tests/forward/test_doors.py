"""offset_common/forward/doors.py: a door that temporarily cannot accept."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from offset_common.address import Address
from offset_common.errors import ServiceError
from offset_common.forward import doors
from offset_common.forward.display import Display
from offset_common.forward.doors import Door
from offset_common.forward.event_loop import EventLoop
from offset_common.forward.services import Place, listen


class Entrance(NamedTuple):
    """A door, and the sockets that came through it."""

    loop: EventLoop
    door: Door
    entered: list[socket.socket]

    def call(self) -> socket.socket:
        """Connect to the door."""
        return socket.create_connection(("127.0.0.1", int(self.door.name.split()[1])))


@pytest.fixture
def entrance(monkeypatch: pytest.MonkeyPatch) -> Iterator[Entrance]:
    monkeypatch.setattr(doors, "ACCEPT_PAUSE", 0.01)
    loop = EventLoop()
    entered: list[socket.socket] = []

    def enter(door: Door, sock: socket.socket) -> None:
        entered.append(sock)
        loop.stop()

    door = Door(loop, Place("", Address("127.0.0.1", 0)), enter, Display())
    yield Entrance(loop, door, entered)
    door.close()
    loop.close()
    for sock in entered:
        sock.close()


def test_a_door_accepts_again_after_a_pause(entrance: Entrance) -> None:
    entrance.door.on_failure(OSError("no descriptors"))
    with entrance.call():
        entrance.loop.run()
    assert len(entrance.entered) == 1


def test_a_door_keeps_its_path_until_it_is_removed(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, path = Path.unlink, short_path / "door.sock"

    def unlink_while_another_starts(self: Path) -> None:
        monkeypatch.undo()
        with pytest.raises(ServiceError, match="another program listens there"):
            listen(str(path))
        unlink(self)

    loop = EventLoop()
    door = Door(loop, Place("", str(path)), lambda door, sock: None, Display())
    monkeypatch.setattr(Path, "unlink", unlink_while_another_starts)
    door.close()
    assert not path.exists()
    loop.close()


def test_a_door_may_be_closed_while_it_pauses(entrance: Entrance) -> None:
    entrance.door.on_failure(OSError("no descriptors"))
    entrance.door.close()
    entrance.loop.call_later(0.05, entrance.loop.stop)
    entrance.loop.run()
