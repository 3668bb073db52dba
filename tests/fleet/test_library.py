"""What libraries make of the errors of a server."""

from __future__ import annotations

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


ADDRESS = Address("127.0.0.1", 6381)


@pytest.mark.parametrize(
    "error", [ResponseError("MOVED 3999 127.0.0.1:6381"), MovedError("3999 127.0.0.1:6381")]
)
def test_moved_keys_are_followed(error: Exception) -> None:
    assert Library.moved_to(error) == ADDRESS
    assert Library.asks(error) is None and Library.is_failure(error)


@pytest.mark.parametrize("error", [ResponseError("ASK 3999 127.0.0.1:6381"), AskError("3999 127.0.0.1:6381")])
def test_keys_on_the_way_are_followed(error: Exception) -> None:
    assert Library.asks(error) == ADDRESS
    assert Library.moved_to(error) is None and not Library.is_failure(error)


@pytest.mark.parametrize("error", [ResponseError("CLUSTERDOWN Hash slot not served"), ReadOnlyError("x")])
def test_failed_server_is_left(error: Exception) -> None:
    assert Library.is_failure(error)


@pytest.mark.parametrize("answer", [b"MOVED 3999 127.0.0.1:6381", None, ResponseError("OOM command")])
def test_other_answers_lead_nowhere(answer: object) -> None:
    assert Library.moved_to(answer) is None and Library.asks(answer) is None
    assert not Library.is_failure(answer)
