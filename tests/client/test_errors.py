"""Errors of the client: one class for each thing that a program handles in its own way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import pytest

from offset_common.client import (
    ConnectRefused,
    Identity,
    NotAccepted,
    RelayTicket,
    RelayUnreachable,
    Server,
    WrongRelay,
    accept,
    connect,
    decode_key,
    listen,
    tunnel,
)
from offset_common.constants import WAITING_CONNECT_TIMEOUT
from offset_common.errors import UsageError
from tests.support.client import both_ways, fake_relay, fake_server, start_listening, ticket_for
from tests.support.process import PATIENCE, free_port
from tests.support.relay_process import RelayProcess


def call(ticket: RelayTicket, key: bytes, end_to_end: bool, **options: Any) -> bytes:
    """Connect and receive one message."""
    with connect(ticket, Identity.generate(), key, end_to_end=end_to_end, **options) as caller:
        return caller.receive(PATIENCE)


@both_ways
def test_connect_to_nobody_is_refused(relay: RelayProcess, end_to_end: bool) -> None:
    with pytest.raises(ConnectRefused, match="it does not listen here, or rejected the connect"):
        call(relay.ticket, Identity.generate().public_key, end_to_end)


@both_ways
def test_rejected_connect_is_refused(relay: RelayProcess, end_to_end: bool) -> None:
    home = Identity.generate()
    with start_listening(relay, home) as listener, ThreadPoolExecutor() as pool:
        calling = pool.submit(call, relay.ticket, home.public_key, end_to_end)
        listener.receive(PATIENCE).reject()
        with pytest.raises(ConnectRefused):
            calling.result(PATIENCE)


@both_ways
def test_connect_that_the_relay_ends_late_is_not_accepted(
    end_to_end: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "NOT_ACCEPTED_MARGIN", WAITING_CONNECT_TIMEOUT - 0.2)
    late = threading.Event()
    with fake_relay(lambda _: late.wait(0.4)) as ticket, pytest.raises(NotAccepted):
        call(ticket, Identity.generate().public_key, end_to_end)


def test_caller_that_gives_up_is_not_accepted(relay: RelayProcess) -> None:
    home = Identity.generate()
    with start_listening(relay, home), pytest.raises(NotAccepted):
        call(relay.ticket, home.public_key, True, accept_timeout=0.2)


def test_closed_port_is_an_unreachable_relay() -> None:
    with pytest.raises(RelayUnreachable):
        listen(ticket_for(free_port()), Identity.generate())


def test_relay_that_hangs_up_is_unreachable() -> None:
    with fake_server(lambda sock: sock.recv(1)) as ticket, pytest.raises(RelayUnreachable):
        listen(ticket, Identity.generate())


def test_relay_with_another_key_is_the_wrong_relay(relay: RelayProcess) -> None:
    with pytest.raises(WrongRelay):
        listen(ticket_for(relay.port), Identity.generate())


def test_web_server_is_the_wrong_relay() -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with fake_server(lambda sock: sock.sendall(answer)) as ticket, pytest.raises(WrongRelay):
        listen(ticket, Identity.generate())


TICKET, ME, KEY = ticket_for(1), Identity.generate(), Identity.generate().public_key
TEXT: Any = "a"
ONE_KEY: Any = KEY


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: listen(TEXT, ME), "ticket must be a RelayTicket, not str; use RelayTicket.load"),
        (lambda: listen(TICKET, TEXT), "identity must be an Identity, not str; use load_identity"),
        (lambda: listen(TICKET, ME, timeout=TEXT), "a timeout must be a number of seconds, not str"),
        (lambda: connect(TICKET, ME, TEXT), "peer_public_key must be bytes, not str; use decode_key"),
        (lambda: connect(TICKET, ME, KEY, accept_timeout=TEXT), "a timeout must be a number of seconds"),
        (lambda: accept(TICKET, ME, TEXT), "source_public_key must be bytes, not str"),
        (lambda: Server(TICKET, ME, print, allow=ONE_KEY), "allow must be a list or a set"),
        (lambda: Server(TICKET, ME, print, allow=[TEXT]), "a key of allow must be bytes, not str"),
        (lambda: Server(TICKET, ME, TEXT, allow=None), "handler must be a function"),
        (lambda: decode_key(b"a", 32), "the key must be a string of base64, not bytes"),  # type: ignore[arg-type]
    ],
)
def test_wrong_argument_type_is_named(mistake: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}"):
        mistake()


def test_key_of_the_wrong_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"^peer_public_key must have 32 bytes, not 31$"):
        connect(TICKET, ME, KEY[:31])


def test_text_is_no_message(relay: RelayProcess) -> None:
    reason = "a message must be bytes, not str; encode text"
    with connect(relay.ticket, ME, KEY) as caller, pytest.raises(TypeError, match=reason):
        caller.send(TEXT)


@pytest.mark.parametrize("text", ["", "short", "a=", "a+", "a b", "A" * 42 + "B"])
def test_key_errors_name_their_subject(text: str) -> None:
    with pytest.raises(UsageError, match=r"^the key of Alice "):
        decode_key(text, 32, "the key of Alice")
