"""The lobby and the handshake pool: silence costs no thread, and what has proven nothing gives way."""

from __future__ import annotations

import errno
import socket
import threading
import time

import pytest
from offset_common.relay.handshakes import HandshakeJob, HandshakePool
from offset_common.relay.lobby import ListeningSocket
from offset_common.relay.reasons import CloseReason

from offset_common.channel.connection import VERSION_FRAME, Connection
from offset_common.channel.events import HandshakeCompleted
from offset_common.constants import HANDSHAKE_TIMEOUT
from offset_common.identity import Identity
from offset_common.relay.limits import Limits
from offset_common.wire.messages import InitConnection, InitRole
from tests.relay.rig import Rig, running

THREADS = 2


class Caller:
    """Somebody who enters the lobby, and takes the handshake a step at a time."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.identity = Identity.generate()
        known = set(rig.relay.lobby.origins.all())
        self.sock = rig.enter()
        entered = [link for link in rig.relay.lobby.origins.all() if link not in known]
        self.link = entered[0] if entered else None
        self.connection = Connection(self.identity, rig.loop.now, rig.identity.public_key)
        self.proven = False
        self.ended = False

    def step(self) -> bool:
        """Send what is to be sent, take what came; say whether the relay is proven to us."""
        data = self.connection.data_to_send()
        try:
            if data:
                self.sock.send(data)
            received = self.sock.recv(4096)
            self.ended = not received
        except BlockingIOError:
            received = b""
        except OSError:
            received, self.ended = b"", True
        self.connection.receive_data(received)
        while (event := self.connection.next_event(self.rig.loop.now)) is not None:
            self.proven = isinstance(event, HandshakeCompleted)
        return self.proven

    def link_is_proven(self) -> bool:
        return self.link is not None and bool(self.link.key)

    def has_ended(self) -> bool:
        self.step()
        return self.ended

    def prove(self) -> Caller:
        """Run the whole handshake."""
        self.rig.until(self.step)
        self.step()
        self.rig.until(self.link_is_proven)
        return self


def close_all(*callers: Caller) -> None:
    for caller in callers:
        caller.sock.close()


def test_the_version_is_sent_at_once(rig: Rig) -> None:
    sock = rig.enter()
    assert sock.recv(100) == VERSION_FRAME
    sock.close()


def test_a_handshake_makes_a_newcomer(rig: Rig) -> None:
    caller = Caller(rig).prove()
    assert caller.link is not None
    assert caller.link.handler is rig.relay.roles.newcomers
    assert caller.link.key == caller.identity.public_key
    assert rig.relay.lobby.handshakes == 1
    close_all(caller)


def test_a_handshake_byte_by_byte_is_a_handshake(rig: Rig) -> None:
    caller = Caller(rig)
    for _ in range(3):
        for byte in caller.connection.data_to_send():
            caller.sock.send(bytes([byte]))
            rig.rounds(1)
        rig.rounds(10)
        caller.step()
    rig.until(caller.link_is_proven)
    close_all(caller)


def stages(rig: Rig) -> list[Caller]:
    """Return callers of whom each stopped at another place: saying nothing, half a word, half a handshake."""
    silent, cut, halfway = Caller(rig), Caller(rig), Caller(rig)
    cut.sock.send(cut.connection.data_to_send()[:14])
    halfway.step()
    return [silent, cut, halfway]


def test_silence_at_any_place_holds_no_thread(rig: Rig) -> None:
    callers = [caller for _ in range(5 * THREADS) for caller in stages(rig)]
    rig.until(lambda: rig.relay.lobby.origins._in_pool == 0)
    newcomer = Caller(rig).prove()
    assert not any(caller.link is not None and caller.link.closed for caller in callers)
    close_all(*callers, newcomer)


def test_silence_at_any_place_is_closed_in_time(rig: Rig) -> None:
    callers = stages(rig)
    rig.until(lambda: rig.relay.lobby.origins._in_pool == 0)
    rig.advance(HANDSHAKE_TIMEOUT - 0.5)
    assert rig.ends == []
    rig.advance(1.0)
    rig.until(lambda: len(rig.ends) == 3)
    assert {end.reason for end in rig.ends} == {CloseReason.HANDSHAKE_TIMEOUT}
    close_all(*callers)


def test_who_stops_halfway_may_go_on_later(rig: Rig) -> None:
    caller = Caller(rig)
    caller.step()
    rig.until(lambda: rig.relay.lobby.origins._in_pool == 0)
    rig.advance(HANDSHAKE_TIMEOUT / 2)
    caller.prove()
    close_all(caller)


def test_who_ends_halfway_is_forgotten(rig: Rig) -> None:
    callers = stages(rig)
    close_all(*callers)
    rig.until(lambda: len(rig.ends) == 3)
    assert {end.reason for end in rig.ends} <= {CloseReason.PEER_CLOSED, CloseReason.CONNECTION_LOST}


def test_what_comes_behind_the_handshake_in_one_piece_is_kept(rig: Rig) -> None:
    caller = Caller(rig)
    rig.until(caller.step)
    caller.connection.send(InitConnection(InitRole.LISTEN).encode(), rig.loop.now)
    caller.sock.send(caller.connection.data_to_send())
    rig.until(lambda: len(rig.relay.registry) == 1)
    close_all(caller)


def test_who_sends_a_byte_now_and_then_does_not_hold_a_thread_beyond_its_time(rig: Rig) -> None:
    given_back = threading.Event()
    pool = HandshakePool(rig.identity, 1, lambda job: given_back.set())
    ours, theirs = socket.socketpair()
    ours.settimeout(0.02)
    pool.submit(HandshakeJob(ours, None, time.monotonic() + 0.1))
    frame = VERSION_FRAME + (2048).to_bytes(8, "big") + bytes(2000)
    for byte in frame:
        theirs.send(bytes([byte]))
        if given_back.wait(0.005):
            break
    assert given_back.is_set()
    pool.close()
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", CloseReason.NOT_OFFSET),
        (b"\x00\x00\x00\x04\x00\x00\x00\x00", CloseReason.OLD_PEER),
        (VERSION_FRAME + b"\x00" * 7 + b"\x09" + b"\xee" * 9, CloseReason.PROTOCOL_ERROR),
        (VERSION_FRAME + b"\xff" * 8, CloseReason.PROTOCOL_ERROR),
        (b"", CloseReason.PEER_CLOSED),
    ],
)
def test_what_is_no_handshake_ends_with_its_reason(rig: Rig, data: bytes, reason: CloseReason) -> None:
    caller = Caller(rig)
    caller.sock.send(data) if data else caller.sock.shutdown(socket.SHUT_WR)
    assert caller.link is not None
    assert rig.reason_of(caller.link) is reason
    close_all(caller)


def test_over_the_limit_of_all_the_oldest_unproven_gives_way() -> None:
    with running(Limits(connections=3, handshake_threads=THREADS)) as rig:
        proven, old, young = Caller(rig).prove(), Caller(rig), Caller(rig)
        newcomer = Caller(rig).prove()
        assert [end.link for end in rig.ends] == [old.link]
        assert rig.ends[0].reason is CloseReason.GAVE_WAY
        close_all(proven, old, young, newcomer)


def test_where_nobody_can_give_way_a_newcomer_is_refused() -> None:
    with running(Limits(connections=2, handshake_threads=THREADS)) as rig:
        settled = [rig.listener() for _ in range(2)]
        newcomer = Caller(rig)
        rig.until(newcomer.has_ended)
        assert newcomer.proven
        assert not any(mate.link.closed for mate in settled)
        assert rig.relay.ended[CloseReason.LIMIT_TOTAL] == 1


def test_running_out_of_descriptors_pauses_accepting_and_makes_room(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    server.setblocking(False)
    address = server.getsockname()

    class Refusing:
        """A listening socket for which the system has no descriptor left."""

        refusing = True

        def fileno(self) -> int:
            return server.fileno()

        def accept(self) -> object:
            if self.refusing:
                raise OSError(errno.EMFILE, "Too many open files")
            return server.accept()

        def close(self) -> None:
            server.close()

    sock = Refusing()
    listening = ListeningSocket(sock, rig.relay.lobby)  # type: ignore[arg-type]
    silent = Caller(rig)
    client = socket.create_connection(address)
    assert silent.link is not None
    assert rig.reason_of(silent.link) is CloseReason.GAVE_WAY
    assert any("cannot accept for a moment: Too many open files" in line for line in rig.log.lines)
    rig.rounds(20)
    assert len([line for line in rig.log.lines if "cannot accept" in line]) == 1, "it tries again at once"
    sock.refusing = False
    rig.advance(0.6)
    rig.until(lambda: len(rig.relay.lobby.origins) == 1)
    client.close()
    rig.until(lambda: len(rig.relay.lobby.origins) == 0)
    listening.close()
    close_all(silent)


def test_so_many_are_accepted_in_a_second_and_no_more() -> None:
    with running(Limits(accepts_per_second=3, handshake_threads=THREADS)) as rig:
        server = socket.create_server(("127.0.0.1", 0))
        server.setblocking(False)
        listening = ListeningSocket(server, rig.relay.lobby)
        rig._ahead += 1.05 - rig.clock() % 1.0  # the begin of a second
        rig.rounds(1)
        clients = [socket.create_connection(server.getsockname()) for _ in range(5)]
        rig.rounds(20)
        assert len(rig.relay.lobby.origins) == 3
        rig.advance(1.0)
        rig.until(lambda: len(rig.relay.lobby.origins) == 5)
        for client in clients:
            client.close()
        rig.until(lambda: len(rig.relay.lobby.origins) == 0)
        listening.close()
