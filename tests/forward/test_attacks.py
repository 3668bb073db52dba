"""Attacks on `stforward share` by strangers, and by machines that were let in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from offset_common.client import ConnectError, Tunnel, connect, listen
from offset_common.errors import ConnectionEnded, ConnectRefused, OffsetError
from offset_common.forward.messages import (
    Hello,
    Kind,
    encode_ack,
    encode_credit,
    encode_stream,
    kind_of,
    read_stream_text,
    read_welcome,
)
from offset_common.forward.peers import Peers, Rule
from offset_common.forward.places import TUNNELS_PER_KEY, UNKNOWN_TUNNELS
from offset_common.forward.services import MAX_SERVICES
from offset_common.forward.streams import WINDOW
from offset_common.identity import Identity
from tests.forward.programs import Setting, echo, exchange, reach, server, wait_for_reset
from tests.support.channel import KeyPair
from tests.support.client import InnerPeer
from tests.support.process import PATIENCE, wait_until
from tests.support.relay_process import resident_bytes
from tests.terminals import Terminal


class Victim:
    """A share with an echo server, and the laptop beside an attacker: an allowed machine may turn hostile.

    Args:
        setting: their files and their relay.
        target: the port of the echo server.
        services: the names under which it is shared.
    """

    def __init__(self, setting: Setting, target: int, *services: str) -> None:
        self.setting = setting
        self.services = services
        self.attacker = Identity.generate()
        shared = [f"{name}={target}" for name in services]
        self.sharing = setting.share(*shared, "--max", "500", "--keep", "5")
        _, self.port = setting.reach(f"{services[0]}=0")
        self.let_in(self.attacker, "attacker")

    def let_in(self, identity: Identity, name: str) -> None:
        """Allow a key."""
        Peers(self.setting.home.directory).add(Rule.ALLOW, identity.public_key, name)

    def connect(self, identity: Identity) -> Tunnel:
        """Return a tunnel to the victim."""
        key = self.setting.home.identity.public_key
        return connect(self.setting.ticket, identity, key, end_to_end=True, accept_timeout=PATIENCE)

    def join(self) -> Tunnel:
        """Return a tunnel of the attacker after the HELLO and WELCOME."""
        tunnel = self.connect(self.attacker)
        tunnel.send(Hello(os.urandom(16), 0, "attacker").encode())
        assert read_welcome(tunnel.receive(PATIENCE)).services == self.services
        return tunnel

    def assert_unharmed(self) -> None:
        """Check that the laptop's connection passes bytes."""
        with reach(self.port) as sock:
            assert exchange(sock, b"still here") == b"still here"


@pytest.fixture
def victim(setting: Setting) -> Iterator[Victim]:
    with server(echo) as target:
        yield Victim(setting, target, "echo")


def test_unknown_keys_are_rejected_and_collapsed_in_the_log(victim: Victim) -> None:
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(victim.connect, Identity.generate()) for _ in range(40)]:
            with pytest.raises(ConnectRefused):
                future.result()
    victim.assert_unharmed()
    victim.sharing.wait_for_line("^rejected ", 10)
    assert victim.sharing.count_lines("^rejected ") == 10


def test_caller_without_the_allowed_key_gets_nothing(victim: Victim) -> None:
    # The relay cannot lie about a key: the caller proves it again, end to end.
    key = victim.setting.home.identity.public_key
    with connect(victim.setting.ticket, victim.attacker, key) as plain:
        InnerPeer(plain, KeyPair())
        with contextlib.suppress(OffsetError):
            while True:
                plain.receive(PATIENCE)
    victim.sharing.wait_for_line("^the tunnel of attacker failed: .*not the expected one")
    victim.assert_unharmed()


def test_services_that_are_not_shared_are_refused(victim: Victim) -> None:
    with victim.join() as tunnel:
        for number, name in enumerate(
            ["ssh", "localhost:22", "../echo", "/etc/passwd", "echo\n", "x" * 4000], 1
        ):
            tunnel.send(encode_stream(Kind.OPEN, number, name))
            answers = iter(lambda: tunnel.receive(PATIENCE), b"")
            answer = next(each for each in answers if kind_of(each) is not Kind.ACK)
            assert kind_of(answer) is Kind.RESET
            assert read_stream_text(answer).endswith("; name one of: echo")
    victim.assert_unharmed()


def test_flood_of_one_key_leaves_room_for_others(victim: Victim) -> None:
    with contextlib.ExitStack() as tunnels, ThreadPoolExecutor(16) as pool:

        def attempt() -> bool:
            try:
                tunnels.enter_context(victim.connect(victim.attacker))
            except ConnectError:
                return False
            return True

        joined = sum(pool.map(lambda _: attempt(), range(TUNNELS_PER_KEY + 30)))
        assert joined <= TUNNELS_PER_KEY
        victim.sharing.wait_for_line("^rejected .*: it has too many tunnels$")
        victim.assert_unharmed()
    wait_until(lambda: attempt_to_join(victim), "a free place")


def attempt_to_join(victim: Victim) -> bool:
    """Return whether the attacker gets a tunnel."""
    try:
        victim.join().close()
    except ConnectError:
        return False
    return True


OPEN = encode_stream(Kind.OPEN, 1, "echo")
BROKEN = {
    "no HELLO": None,
    "second HELLO": [Hello(bytes(16), 0, "x").encode()],
    "empty message": [b""],
    "unknown kind": [b"\xff"],
    "half an ACK": [b"\x04\0"],
    "ACK of nothing": [encode_ack(7)],
    "stream never opened": [encode_stream(Kind.DATA, 9) + b"x"],
    "stream opened twice": [OPEN, OPEN],
    "more than the window": [OPEN] + [encode_stream(Kind.DATA, 1) + bytes(WINDOW // 2)] * 200,
    "credit for nothing": [OPEN, encode_credit(1, 2**32 - 1)],
    "name without end": [encode_stream(Kind.OPEN, 1, "x" * 100_000)],
    "REFUSED to the sharing side": [bytes([Kind.REFUSED]) + b"no"],
}


def test_broken_messages_end_the_session_and_no_other(victim: Victim) -> None:
    for messages in BROKEN.values():
        tunnel = victim.connect(victim.attacker) if messages is None else victim.join()
        with tunnel:
            with contextlib.suppress(ConnectionEnded):
                for message in messages or [b"GET / HTTP/1.1\r\n\r\n" + bytes(50)]:
                    tunnel.send(message)
            with pytest.raises(OffsetError):
                while True:
                    tunnel.receive(PATIENCE)
    victim.sharing.wait_for_line("^the tunnel of attacker failed: ")
    assert victim.sharing.count_lines("Traceback") == 0
    victim.assert_unharmed()


def test_peer_that_never_reads_costs_bounded_memory(setting: Setting) -> None:
    # Each OPEN is answered with a RESET that names all services; they pile up in the share.
    names = [f"{number:032}" for number in range(MAX_SERVICES)]
    failed = "^the tunnel of attacker failed: the other side sends without reading the answers$"
    with server(echo) as target:
        victim = Victim(setting, target, *names)
        before = resident_bytes(victim.sharing.pid)
        tunnel = victim.join()
        for number in range(1, 1_000_000):
            if victim.sharing.count_lines(failed):
                break
            with contextlib.suppress(ConnectionEnded, TimeoutError):
                tunnel.send(encode_stream(Kind.OPEN, number, "no such service"), timeout=1)
        assert resident_bytes(victim.sharing.pid) - before < 120_000_000
        victim.sharing.wait_for_line(failed)
        victim.assert_unharmed()
        tunnel.abort()


def test_stolen_session_number_is_worth_nothing(victim: Victim) -> None:
    number = os.urandom(16)
    with victim.connect(victim.attacker) as first:
        first.send(Hello(number, 0, "").encode())
        first.receive(PATIENCE)
        first.send(OPEN)
        other = Identity.generate()
        victim.let_in(other, "other")
        with victim.connect(other) as second:
            second.send(Hello(number, 0, "").encode())
            assert not read_welcome(second.receive(PATIENCE)).resumed
        first.send(encode_stream(Kind.DATA, 1) + b"mine")
        assert first.receive(PATIENCE).endswith(b"mine")


def test_strangers_cannot_flood_the_terminal_with_questions(setting: Setting) -> None:
    count, ended = 12, []
    share = setting.share_command("9")
    with ThreadPoolExecutor(count) as pool, contextlib.closing(Terminal(share)) as terminal:
        terminal.wait_for("waiting for connections")
        key = setting.home.identity.public_key

        def call() -> None:
            with (
                contextlib.suppress(OffsetError),
                connect(setting.ticket, Identity.generate(), key, end_to_end=True) as tunnel,
            ):
                tunnel.send(Hello(os.urandom(16), 0, "\x1b[31mroot\n").encode())
                while kind_of(tunnel.receive(PATIENCE)) is not Kind.REFUSED:
                    pass
            ended.append(True)

        for _ in range(count):
            pool.submit(call)
        wait_until(lambda: len(ended) >= count - UNKNOWN_TUNNELS, "the end of those that may not wait")
        terminal.wait_for("let in? y/N")
        assert terminal.text.count("let in? y/N") == 1
        assert "root" not in terminal.text.replace("31mroot", "")


def test_share_without_the_key_of_the_code_gets_nothing(setting: Setting) -> None:
    # A dishonest relay could connect any node; the other side proves the code's key, end to end.
    with listen(setting.ticket, setting.home.identity) as listener:
        program = setting.to("0", "--wait", "1")
        port = int(program.wait_for_line("^listening on ").split()[-1])
        with reach(port) as sock:
            sock.sendall(b"secret")
            with listener.receive(PATIENCE).accept() as plain:
                InnerPeer(plain, KeyPair())
                program.wait_for_line("^not connected: .*not the expected one")
            wait_for_reset(sock)
