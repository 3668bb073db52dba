"""offset_common/forward/services.py: the arguments of `share` and `to`."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

import pytest

from offset_common.address import Address
from offset_common.errors import ServiceError, UsageError
from offset_common.forward import services
from offset_common.forward.local import reason_of
from offset_common.forward.services import (
    TARGET_TIMEOUT,
    Place,
    Service,
    listen,
    parse_places,
    parse_services,
)
from tests.support.client import silent_address


@pytest.mark.parametrize(
    ("word", "service", "suggestion"),
    [
        ("22", Service("22", Address("localhost", 22)), "2222"),
        ("ssh=22", Service("ssh", Address("localhost", 22)), "2222"),
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
        (["a b=22"], "is not a valid service name"),
        (["foo"], "'foo' names no port; write it as in ssh=22, or foo:22 for a port of the host foo"),
        (["ssh=foo"], "'ssh=foo' names no port; write it as in ssh=22, or ssh=foo:22"),
        (["db=~/x.sock"], r"'db=~/x.sock': only a shell replaces ~, .*; write the whole path"),
        (
            ["http://localhost:8080"],
            "'http://localhost:8080' is neither an address, such as localhost:80, nor",
        ),
        (["53/udp"], "'53/udp' is neither an address"),
        (["x=22", "x=23"], "two services are called 'x'"),
        ([f"s{number}={number}" for number in range(1, 70)], "at most 64"),
    ],
)
def test_invalid_service_is_explained(words: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_services(words)


def test_path_of_a_program_that_does_not_accept_is_taken(short_path: Path) -> None:
    path = str(short_path / "busy.sock")
    with contextlib.ExitStack() as sockets:
        listening = sockets.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(path)
        listening.listen(0)
        with pytest.raises(BlockingIOError):
            while True:  # until its queue is full
                waiting = sockets.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(path)
        with pytest.raises(ServiceError, match="another program listens there"):
            listen(path)


def test_unavailable_place_is_explained(short_path: Path) -> None:
    no_address = "this host has no such address; choose one of those that `ip address` lists"
    no_path = "another program listens there, or a file has this name; choose another path"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        taken = Address("127.0.0.1", server.getsockname()[1])
        path = str(short_path / "taken")
        local.bind(path)
        local.listen()
        (short_path / "file").touch()
        expected: dict[Union[Address, str], str] = {
            taken: "another program has this port; stop it, or choose another port",
            Address("192.0.2.1", 4567): no_address,
            Address("nosuch.invalid", 4567): "the name does not resolve; check its spelling",
            path: no_path,
            str(short_path / "file"): no_path,
            str(short_path / "no" / "s"): f"the directory '{short_path / 'no'}' is missing; create it first",
            str(short_path / ("x" * 200)): "the path is too long for a socket; choose a shorter one",
        }
        for where, advice in expected.items():
            with pytest.raises(ServiceError) as caught:
                listen(where)
            assert str(caught.value) == f"cannot listen on {where}: {advice}"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["ssh"], "'ssh' names no port; write ssh=PORT, or add --stdio"),
        (["70000"], "has the port 70000"),
        (["x=", "1"], "names no port or path"),
        (["db=~/x.sock"], "only a shell replaces ~"),
        (["2222/tcp"], "'2222/tcp' is neither an address"),
    ],
)
def test_invalid_place_is_explained(words: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_places(words)


def know_nothing(*_: Any, **__: Any) -> Any:
    """Do what the resolver does without any name service."""
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_localhost_needs_no_name_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", know_nothing)
    with socket.create_server(("127.0.0.1", 0)) as server:
        (service,) = parse_services([str(server.getsockname()[1])]).values()
        service.connect().close()


def test_target_whose_name_is_unknown_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", know_nothing)
    with pytest.raises(OSError, match="does not resolve") as caught:
        Service("web", Address("web.example", 80)).connect()
    assert reason_of(caught.value) == "the name web.example does not resolve: Name or service not known"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a queue of connections that drops silently")
def test_silent_address_of_a_target_delays_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_address() as silent, socket.create_server(("127.0.0.1", 0)) as server:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", silent.sockaddr)]
        found.append((socket.AF_INET, socket.SOCK_STREAM, 0, "", server.getsockname()))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        started = time.monotonic()
        with Service("web", Address("web.example", 80)).connect() as sock:
            assert sock.getpeername() == server.getsockname()
        assert time.monotonic() - started < TARGET_TIMEOUT / 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs a queue of connections that drops silently")
def test_target_that_does_not_answer_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "TARGET_TIMEOUT", 0.5)
    with silent_address() as silent, pytest.raises(OSError, match="no answer in time"):
        Service("web", Address(*silent.sockaddr)).connect()


@contextlib.contextmanager
def full_queue(path: Path) -> Iterator[socket.socket]:
    """A server at a path whose queue of waiting connections is full."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(path))
        yield server


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such connections")
def test_connection_waits_for_a_busy_unix_socket(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "TARGET_TIMEOUT", 60.0)
    with full_queue(short_path / "server") as server:
        # The first attempt fails; then the server takes a connection from its queue.
        monkeypatch.setattr(time, "sleep", lambda seconds: server.accept()[0].close())
        Service("db", str(short_path / "server")).connect().close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such connections")
def test_connection_to_a_busy_unix_socket_has_a_timeout(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "TARGET_TIMEOUT", 0.1)
    with full_queue(short_path / "server"), pytest.raises(BlockingIOError):
        Service("db", str(short_path / "server")).connect()
