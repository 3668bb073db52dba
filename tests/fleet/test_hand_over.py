"""Handing a peer over between two hosts, at each of them, without a directory; the test runs the rounds."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Callable

import pytest

from offset_common.address import Address
from offset_common.channel.connection import Connection
from offset_common.fleet.arrivals import Arrivals, AwaitingOrder
from offset_common.fleet.dialing import Dial
from offset_common.fleet.entries import Host
from offset_common.fleet.events import Found
from offset_common.fleet.forwarding import MAX_ATTEMPTS, Forwarding, Means
from offset_common.fleet.host_links import HostLinks
from offset_common.fleet.orders import Answer, Order
from offset_common.identity import Identity, encode_key
from offset_common.relay.addresses import PeerAddress
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.event_loop import EventLoop
from offset_common.relay.homes import Homes
from offset_common.relay.sockets import set_timeouts
from offset_common.wire.messages import InitRole
from tests.relay.harness import PATIENCE, Harness, TestPeer
from tests.relay.test_bugs import bug
from tests.relay.test_garbage import connections, no_search
from tests.relay.test_handshake import Caller, hold_jobs

__all__ = ["no_search"]

FORWARDED = b"C" * 32  # the key of a peer that arrived at the other host
ADDRESS = PeerAddress("192.0.2.7:999", "192.0.2.7", "192.0.2.7")


class OtherHost:
    """A host that the test plays, and that has every listener that is not at the host under test."""

    def __init__(self) -> None:
        self.identity = Identity.generate()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.settimeout(PATIENCE)
        address = Address(*self.server.getsockname())
        self.entry = Host(encode_key(self.identity.public_key), "other", address)


class FleetHost(Homes):
    """The host under test, as fleet.py puts it together."""

    def __init__(self, harness: Harness, other: Host) -> None:
        relay = harness.relay
        self.harness = harness
        self.identity = Identity.generate()
        self.links = HostLinks(relay.env, self.identity, relay.limits)
        self.arrivals = Arrivals(relay, self.links, self._find, lambda key, claim: None, lambda host: None)
        self._other = other
        take_back, tunnels = relay.rendezvous.take_back, relay.uncounted_tunnels
        self._means = Means(self._find, self.links, take_back, tunnels, lambda peer, host: None)
        relay.rendezvous.homes = self

    def forward(self, connection: SocketConnection, role: InitRole, other: bytes) -> bool:
        """Forward to the other host."""
        Forwarding(self._means, connection, role, other).start()
        return True

    def close(self) -> None:
        """Close the connections with the other host."""
        self.links.close()

    def _find(self, key: object, call: Callable[[Found], None]) -> None:
        """Answer in a later round, as a directory does."""
        self.harness.loop.call_soon(partial(call, Found(0, self._other)))


class Home(Caller):
    """The other host's end of a connection that the host under test opens to it."""

    def __init__(self, host: FleetHost, other: OtherHost) -> None:
        host.harness.run_until(lambda: len(host.links) == 1)
        sock, _ = other.server.accept()
        sock.setblocking(False)
        connection = list(host.links._open)[-1]
        protocol = Connection(other.identity, host.harness.loop.now)
        TestPeer.__init__(self, host.harness, connection, sock, protocol, other.identity)
        host.harness.peers.append(self)


class Link(Caller):
    """A connection that the other host has opened to the host under test."""

    def __init__(self, host: FleetHost, identity: Identity) -> None:
        ours, theirs = socket.socketpair()
        set_timeouts(ours)
        theirs.setblocking(False)
        host.arrivals.accept(ours, ("127.0.0.1", 5000))
        connection = list(host.links._open)[-1]
        protocol = Connection(identity, host.harness.loop.now, host.identity.public_key)
        TestPeer.__init__(self, host.harness, connection, theirs, protocol, identity)
        host.harness.peers.append(self)

    def hand_over(self, target: bytes) -> None:
        """Send the order to connect a peer to `target`."""
        self.send(Order("connect", FORWARDED, target, ADDRESS).encode())


@pytest.fixture
def harness() -> Iterator[Harness]:
    made = Harness()
    yield made
    made.release()


@pytest.fixture
def other() -> Iterator[OtherHost]:
    made = OtherHost()
    with made.server:
        yield made


@pytest.fixture
def host(harness: Harness, other: OtherHost) -> Iterator[FleetHost]:
    host = FleetHost(harness, other.entry)
    yield host
    host.close()


@pytest.fixture
def link(host: FleetHost, other: OtherHost) -> Link:
    return Link(host, other.identity)


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Stop the system from opening descriptors beyond standard error; open ones stay."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# At the home.


def test_peer_is_taken_over_without_a_free_descriptor(harness: Harness, link: Link) -> None:
    listener = harness.listener()
    link.authenticate()
    with no_free_descriptor():
        link.hand_over(listener.key)
        assert listener.incoming_key() == FORWARDED


def test_order_sent_with_the_last_handshake_frame_is_kept(harness: Harness, link: Link) -> None:
    listener = harness.listener()
    harness.run_until(link.step)
    link.hand_over(listener.key)  # in one piece with the last handshake message
    assert listener.incoming_key() == FORWARDED


def test_peer_that_arrives_after_a_stop_is_refused(harness: Harness, link: Link) -> None:
    listener = harness.listener()
    link.authenticate()
    harness.run_until(lambda: isinstance(link.connection.session, AwaitingOrder))
    harness.relay.stop(60.0)
    link.hand_over(listener.key)
    assert Answer.decode(link.receive()).reason is CloseReason.SHUTDOWN


@pytest.mark.parametrize("broken", [(AwaitingOrder, "__init__"), (Arrivals, "_obstacle")])
def test_bug_in_a_hand_over_ends_its_link_alone(
    harness: Harness, link: Link, monkeypatch: pytest.MonkeyPatch, broken: tuple[type, str]
) -> None:
    listener = harness.listener()
    with monkeypatch.context() as patch:
        patch.setattr(*broken, bug)
        link.authenticate()
        link.hand_over(listener.key)
        assert link.wait_for_end() == []
    assert harness.relay.totals.bugs == 1
    assert harness.pending(listener).key == listener.incoming_key()


def test_host_that_is_not_watched_ends_alone(
    harness: Harness, host: FleetHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(EventLoop, "register", bug)
        ours, theirs = socket.socketpair()
        host.arrivals.accept(ours, ("127.0.0.1", 5000))
    assert theirs.recv(1) == b""
    theirs.close()
    assert (len(host.links), harness.relay.totals.bugs) == (0, 1)


# At the host where the peer arrives.


def arrive(host: FleetHost) -> TestPeer:
    """Return a peer whose connect must be forwarded."""
    return host.harness.admit().request(InitRole.CONNECT, b"T" * 32)


def test_bug_in_the_search_for_a_home_ends_that_peer_alone(
    harness: Harness, host: FleetHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = harness.listener()
    with monkeypatch.context() as patch:
        patch.setattr(Dial, "__init__", bug)
        assert harness.reason_of(arrive(host).connection) is CloseReason.BUG
    assert harness.pending(listener).key == listener.incoming_key()


def test_link_is_not_closed_while_a_thread_has_its_socket(
    harness: Harness, host: FleetHost, other: OtherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = hold_jobs(monkeypatch)
    near = arrive(host)
    harness.run_until(lambda: len(host.links) == 1)
    sock, _ = other.server.accept()
    with sock:
        sock.sendall(Connection(other.identity, harness.loop.now).data_to_send())
        harness.run_until(lambda: bool(jobs))
        near.sock.close()
        assert harness.reason_of(near.connection) is CloseReason.PEER_CLOSED
        assert jobs[0].sock.fileno() >= 0
        jobs[0].done(jobs[0])
        harness.run_until(lambda: len(host.links) == 0)
    assert jobs[0].sock.fileno() < 0


def test_link_that_ended_before_its_peer_is_forgotten(
    harness: Harness, host: FleetHost, other: OtherHost
) -> None:
    near = arrive(host)
    for _ in range(MAX_ATTEMPTS):
        harness.run_until(lambda: len(host.links) == 1)
        other.server.accept()[0].close()
        harness.run_until(lambda: len(host.links) == 0)
    assert harness.reason_of(near.connection) is CloseReason.NO_LISTENER
    assert len(host.links) == 0


# Reference cycles, at both.


def wait_until_freed(harness: Harness) -> None:
    """Wait until no connection is left in memory, once the test has closed all peers."""
    while harness.peers:
        harness.peers.pop().sock.close()
    harness.run_until(lambda: not len(harness.relay.admission))
    harness.ends.clear()
    harness.run_until(lambda: not connections())


def test_connections_of_a_peer_that_left_are_freed(
    harness: Harness, host: FleetHost, other: OtherHost, no_search: None
) -> None:
    arrive(host)
    Home(host, other)
    wait_until_freed(harness)


def test_connections_of_a_forwarded_peer_are_freed(
    harness: Harness, host: FleetHost, other: OtherHost, no_search: None
) -> None:
    near, home = arrive(host), Home(host, other)
    home.authenticate()
    assert Order.decode(home.receive()).key == near.key
    home.send(Answer().encode(), b"joined")
    assert near.receive() == b"joined"
    near.sock.close()
    assert home.wait_for_end() == []
    del near, home
    wait_until_freed(harness)


def test_connections_of_a_peer_that_was_handed_over_are_freed(
    harness: Harness, host: FleetHost, other: OtherHost, no_search: None
) -> None:
    listener, link = harness.listener(), Link(host, other.identity)
    link.authenticate()
    link.hand_over(listener.key)
    assert listener.incoming_key() == FORWARDED
    del listener, link
    wait_until_freed(harness)
