"""offset_common/forward/services.py: the arguments of `share` and `to`."""

from __future__ import annotations

import pytest

from offset_common.address import Address
from offset_common.errors import UsageError
from offset_common.forward.services import Place, Service, parse_places, parse_services


@pytest.mark.parametrize(
    ("word", "service", "suggestion"),
    [
        ("22", Service("22", Address("localhost", 22)), "2222"),
        ("ssh=22", Service("ssh", Address("localhost", 22)), "2222"),
        ("web=8080", Service("web", Address("localhost", 8080)), "8080"),
        ("631", Service("631", Address("localhost", 631)), "10631"),
        ("web=10.0.0.5:80", Service("web", Address("10.0.0.5", 80)), "8080"),
        ("[::1]:5000", Service("5000", Address("::1", 5000)), "5000"),
        ("/run/db.sock", Service("db.sock", "/run/db.sock"), "./db.sock"),
        ("db=./here.sock", Service("db", "./here.sock"), "./db"),
    ],
)
def test_service_is_read(word: str, service: Service, suggestion: str) -> None:
    assert parse_services([word]) == {service.name: service}
    assert service.suggestion() == suggestion


@pytest.mark.parametrize(
    ("words", "places"),
    [
        (["2222"], [Place("", Address("127.0.0.1", 2222))]),
        (["ssh=0"], [Place("ssh", Address("127.0.0.1", 0))]),
        (["ssh", "2222"], [Place("ssh", Address("127.0.0.1", 2222))]),
        (["ssh", "./s"], [Place("ssh", "./s")]),
        (["0.0.0.0:80"], [Place("", Address("0.0.0.0", 80))]),
        (["/tmp/s"], [Place("", "/tmp/s")]),
        (["a=1", "b=2"], [Place("a", Address("127.0.0.1", 1)), Place("b", Address("127.0.0.1", 2))]),
        (["1", "2"], [Place("", Address("127.0.0.1", 1)), Place("", Address("127.0.0.1", 2))]),
    ],
)
def test_places_are_read(words: list[str], places: list[Place]) -> None:
    assert parse_places(words) == places


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["70000"], "has the port 70000"),
        (["0"], "has port 0"),
        (["ssh"], "names no port"),
        (["ssh="], "names no port or path"),
        (["a b=22"], "is no name for a service"),
        (["=22"], "is no name for a service"),
        (["foo"], "'foo' names no port; write it as in ssh=22, or foo:22 for a port of the host foo"),
        (["ssh=foo"], "'ssh=foo' names no port; write it as in ssh=22, or ssh=foo:22"),
        (["x=22", "x=23"], "two services are called 'x'"),
        (["22", "localhost:22"], "two services are called '22'"),
        ([f"s{number}={number}" for number in range(1, 70)], "at most 64"),
    ],
)
def test_invalid_service_is_explained(words: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_services(words)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["ssh"], "'ssh' names no port; write ssh=PORT, or add --stdio"),
        (["70000"], "has the port 70000"),
        (["=1"], "is no name for a service"),
        (["x=", "1"], "names no port or path"),
    ],
)
def test_invalid_place_is_explained(words: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_places(words)
