"""How the client libraries report the errors of a server."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from offset_common.address import Address
from offset_common.fleet.library import Library


class ResponseError(Exception):
    """An error without a class of its own, as in valkey-py."""


class MovedError(ResponseError):
    """An error with a class of its own, as in older versions of redis-py."""


class AskError(ResponseError):
    """Likewise."""


class ReadOnlyError(ResponseError):
    """Likewise; in all versions."""


class Client:
    """A client of a server of a cluster, as valkey-py and redis-py have it."""

    def __init__(self, **where: object) -> None:
        self.connection_pool = SimpleNamespace(connection_kwargs=where)


ADDRESS = Address("127.0.0.1", 6381)
CLIENT = Client(host="10.0.0.1", port=6380)


@pytest.mark.parametrize(
    "error", [ResponseError("MOVED 3999 127.0.0.1:6381"), MovedError("3999 127.0.0.1:6381")]
)
def test_moved_keys_are_followed(error: Exception) -> None:
    assert Library.moved_to(error, CLIENT) == ADDRESS
    assert Library.asks(error, CLIENT) is None and Library.is_failure(error)


@pytest.mark.parametrize("error", [ResponseError("ASK 3999 127.0.0.1:6381"), AskError("3999 127.0.0.1:6381")])
def test_keys_that_are_moving_are_followed(error: Exception) -> None:
    assert Library.asks(error, CLIENT) == ADDRESS
    assert Library.moved_to(error, CLIENT) is None


def test_empty_host_is_that_of_the_server_that_answered() -> None:
    assert Library.moved_to(ResponseError("MOVED 3999 :6381"), CLIENT) == Address("10.0.0.1", 6381)
    assert Library.asks(AskError("3999 :6381"), CLIENT) == Address("10.0.0.1", 6381)


@pytest.mark.parametrize(
    "error", [ResponseError("MOVED 3999 ?:6381"), MovedError("3999 ?:6381"), AskError("3999 ?:6381")]
)
def test_unknown_host_makes_the_client_connect_anew(error: Exception) -> None:
    assert Library.moved_to(error, CLIENT) is None and Library.asks(error, CLIENT) is None
    assert Library.is_failure(error)


def test_empty_host_of_a_unix_socket_is_unknown() -> None:
    client = Client(path="/run/valkey.sock")
    assert Library.moved_to(ResponseError("MOVED 3999 :6381"), client) is None


@pytest.mark.parametrize("error", [ResponseError("CLUSTERDOWN Hash slot not served"), ReadOnlyError("x")])
def test_failed_server_is_left(error: Exception) -> None:
    assert Library.is_failure(error)


@pytest.mark.parametrize("answer", [b"MOVED 3999 127.0.0.1:6381", None, ResponseError("OOM command")])
def test_other_answers_lead_nowhere(answer: object) -> None:
    assert Library.moved_to(answer, CLIENT) is None and Library.asks(answer, CLIENT) is None
    assert not Library.is_failure(answer)
