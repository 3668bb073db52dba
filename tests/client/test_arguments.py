"""Wrong arguments of the client: the error names the argument and says what to do."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from offset_common.client import Identity, Server, accept, connect, decode_key, listen
from offset_common.errors import UsageError
from tests.support.client import ticket_for
from tests.support.relay_process import RelayProcess

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
def test_wrong_argument_type_is_reported(mistake: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}"):
        mistake()


def test_key_of_the_wrong_size_is_reported() -> None:
    with pytest.raises(ValueError, match=r"^peer_public_key must have 32 bytes, not 31$"):
        connect(TICKET, ME, KEY[:31])


def test_text_is_not_a_message(relay: RelayProcess) -> None:
    reason = "a message must be bytes, not str; encode text"
    with connect(relay.ticket, ME, KEY) as caller, pytest.raises(TypeError, match=reason):
        caller.send(TEXT)


@pytest.mark.parametrize("text", ["", "short", "a=", "a+", "a b", "A" * 42 + "B"])
def test_key_errors_name_their_subject(text: str) -> None:
    with pytest.raises(UsageError, match=r"^the key of Alice "):
        decode_key(text, 32, "the key of Alice")
