"""Listening on what the host has, and one clear line about what it doesn't have."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from offset_common.address import Address
from offset_common.errors import OperatorError, ServiceError, UsageError
from offset_common.relay.listening import listen_on
from offset_common.relay.log import LOGGER
from tests.relay.harness import LineRecorder, descriptors
from tests.support.hosts import needs_ipv6, needs_localhost
from tests.support.process import free_port

LOCALHOST = Address("127.0.0.1", 0)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The lines that are logged."""
    recorder = LineRecorder()
    LOGGER.addHandler(recorder)
    yield recorder.lines
    LOGGER.removeHandler(recorder)


def listen(*addresses: Address) -> list[str]:
    """Listen for a moment; return the hosts of the sockets."""
    sockets = listen_on(addresses)
    names = [sock.getsockname() for sock in sockets]
    for sock in sockets:
        sock.close()
    return [name[0] for name in names]


def fail(*addresses: Address) -> str:
    """Return the message of an error."""
    with pytest.raises(OperatorError) as caught:
        listen(*addresses)
    return str(caught.value)


class WithoutIPv6(socket.socket):
    """A socket on a host whose kernel has no IPv6."""

    def __init__(self, family: int = -1, *others: Any, **more: Any) -> None:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        super().__init__(family, *others, **more)


class WithIPv6Disabled(socket.socket):
    """A socket on a host with net.ipv6.conf.all.disable_ipv6=1: [::] can be bound, no other address can."""

    def bind(self, address: Any) -> None:
        if self.family == socket.AF_INET6 and address[0] != "::":
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        super().bind(address)


NO_IPV6 = [WithoutIPv6, WithIPv6Disabled]


@pytest.fixture
def localhost_is_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a name resolve to ::1 and 127.0.0.1, as in the hosts file of most distributions."""

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "localhost"
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.usefixtures("localhost_is_both")
@pytest.mark.parametrize("kind", NO_IPV6)
def test_name_listens_on_what_can_be_bound(
    monkeypatch: pytest.MonkeyPatch, log: list[str], kind: type[socket.socket]
) -> None:
    monkeypatch.setattr(socket, "socket", kind)
    assert listen(Address("localhost", 0)) == ["127.0.0.1"]
    (line,) = log
    assert line.startswith("warning: address skipped: address=[::1]:0 given=localhost:0 ")
    assert "IPv6 is off" in line


def test_python_without_ipv6_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    # A Python without IPv6 returns this for an IPv6 address.
    found: list[Any] = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (10, bytes(24)))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(
        ServiceError, match=r"relay\.example has IPv6 addresses only, but this Python has no IPv6"
    ):
        listen(Address("relay.example", 0))
    found.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)))
    assert listen(Address("localhost", 0)) == ["127.0.0.1"]


def test_name_of_this_host_alone_is_reported(monkeypatch: pytest.MonkeyPatch, log: list[str]) -> None:
    # Debian has a line such as "127.0.1.1 relay.example.com" in /etc/hosts.
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert listen(Address("localhost", 0), Address("127.0.1.1", 0)) == ["127.0.1.1"] * 2
    assert log == []
    listen(Address("relay.example.com", 0))
    (line,) = log
    assert line.startswith("warning: only this host can connect: address=127.0.1.1:")
    assert " given=relay.example.com:0 " in line and "write 0.0.0.0:" in line


@pytest.mark.usefixtures("localhost_is_both")
def test_name_without_any_own_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ServiceError):
        listen(Address("localhost", 0))


@pytest.mark.usefixtures("localhost_is_both")
def test_taken_port_of_a_name_is_not_left_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        message = fail(Address("localhost", taken.getsockname()[1]))
    assert "another program has this port" in message


@pytest.mark.parametrize("host", ["::", "::1", "2001:db8::1"])
def test_ipv6_address_says_that_ipv6_is_off(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    message = fail(Address(host, 4567))
    assert message.startswith(f"cannot listen on [{host}]:4567: IPv6 is off on this host")
    assert "0.0.0.0:4567" in message and "\n" not in message


def test_disabled_ipv6_is_reported_too(monkeypatch: pytest.MonkeyPatch, log: list[str]) -> None:
    monkeypatch.setattr(socket, "socket", WithIPv6Disabled)
    assert "IPv6 is off" in fail(Address("::1", 4567))
    assert listen(Address("::", 0)) == ["::"]
    assert "IPv6 is off" in log[0]


def test_foreign_address_says_that_it_is_foreign() -> None:
    assert "this host has no such address" in fail(Address("192.0.2.1", 4567))


def test_address_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="given twice"):
        listen(Address("127.0.0.1", 4567), Address("127.0.0.2", 4567), Address("127.0.0.1", 4567))


@pytest.mark.parametrize(
    "hosts",
    [
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        pytest.param(("localhost", "127.0.0.1"), marks=needs_localhost),
    ],
)
def test_overlapping_addresses_are_refused(hosts: tuple[str, str]) -> None:
    port = free_port()
    message = fail(*(Address(host, port) for host in hosts))
    assert "this program already listens on" in message


def test_failure_of_one_address_closes_the_others() -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        before = descriptors()
        fail(LOCALHOST, Address("127.0.0.2", taken.getsockname()[1]))
        assert descriptors() == before


@needs_ipv6
def test_both_wildcards_share_a_port() -> None:
    port = free_port()
    assert listen(Address("::", port), Address("0.0.0.0", port)) == ["::", "0.0.0.0"]
    assert listen(Address("0.0.0.0", port), Address("::", port)) == ["0.0.0.0", "::"]
