"""Three hosts on one directory: nodes at different hosts meet as at one."""

from __future__ import annotations

import contextlib
import shlex
import socket
from collections.abc import Iterator
from functools import partial

import pytest

from offset_common.address import Address
from offset_common.fleet.entries import Entries, Host
from offset_common.fleet.orders import Answer, Order
from offset_common.identity import encode_key, load_identity
from offset_common.relay.addresses import PeerAddress
from offset_common.wire.messages import InitRole
from tests.documents import command_lines
from tests.support.channel import Channel, KeyPair
from tests.support.fleet import DirectoryServer, FleetProcesses, NewNodeAt, fleet_address
from tests.support.node import assert_joined, assert_listening, at_once
from tests.support.peer import TIMEOUT, Ended, Peer
from tests.support.process import wait_until
from tests.support.relay_process import NewNode, RelayProcess


@contextlib.contextmanager
def dialed_host(host: RelayProcess, keys: KeyPair) -> Iterator[Peer]:
    """Connect to a host as another host does, and finish the handshake; close the connection at the end."""
    with socket.create_connection(fleet_address(host), TIMEOUT) as sock:
        yield Peer(sock, Channel(keys)).handshake()


def test_documented_command_starts_a_host(server: DirectoryServer, relay: FleetProcesses) -> None:
    (line,) = [line for line in command_lines() if " --fleet-laddr 10.0.0.1:4568" in line]
    words = shlex.split(line)[2:]
    options = dict(zip(words[::2], words[1::2]))
    options.update({"--fleet": server.url, "--fleet-laddr": "127.0.0.1:0"})
    fleet = [word for name in ("--fleet", "--fleet-laddr") for word in (name, options.pop(name))]
    assert set(options) == {"--idfile", "--laddr"}
    host = RelayProcess(relay.identity, options=fleet)
    host.wait_for_line("^directory present")
    host.stop_cleanly()


def test_newest_listener_wins_wherever_it_is(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    first, second, third = relay.hosts
    node = new_node_at()
    old = node.at(first).listen()
    new = node.at(second).listen()
    old.wait_for_close()
    assert first.wait_for_end_of(old).reason == "replaced by a newer listener with the same key"
    for host in (first, second, third):
        assert_listening(new_node_at().at(host), node, new)


def test_hosts_that_claim_a_key_at_once_agree(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    for _ in range(3):
        node = new_node_at()
        claims = [node.at(host).open() for host in relay.hosts[:2]]
        at_once(*(partial(each.init, InitRole.LISTEN) for each in claims))
        wait_until(lambda claims=claims: any(each.was_closed for each in claims))  # type: ignore[misc]
        (winner,) = [each for each in claims if not each.was_closed]
        for host in relay.hosts:
            assert_listening(new_node_at().at(host), node.at(host), winner)


def test_waiting_connects_follow_their_listener(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    first, second, third = relay.hosts
    node, near_by, far_away = new_node_at(), new_node_at(), new_node_at()
    old = node.at(first).listen()
    callers = {}
    for caller, host in ((near_by, first), (far_away, third)):
        callers[caller.public_key] = caller.at(host).connect(node.public_key)
        callers[caller.public_key].send(b"early")
        assert old.incoming() == caller.public_key
    new = node.at(second).open().init(InitRole.LISTEN)
    for _ in callers:
        key = new.incoming()
        far = node.at(third).accept(key)
        assert far.receive() == b"early"
        assert_joined(callers[key], far)


def test_connects_are_accepted_oldest_first(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    first, second, third = relay.hosts
    node, caller = new_node_at(), new_node_at()
    listener = node.at(second).listen()
    ends = []
    for host in (first, second, third, second, first):
        ends.append(caller.at(host).connect(node.public_key))
        assert listener.incoming() == caller.public_key
    for host, end in zip((third, second, first, first, second), ends):
        assert_joined(end, node.at(host).accept(caller.public_key))


def test_rejection_reaches_the_other_host(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    first, second, _ = relay.hosts
    node, caller = new_node_at(), new_node_at()
    listener = node.at(first).listen()
    near = caller.at(second).connect(node.public_key)
    listener.reject(listener.incoming())
    assert near.messages_until_end() == []
    assert second.wait_for_end_of(near).reason == "rejected by the listener"


def test_connect_to_nobody_is_refused_at_once(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    host = relay.hosts[0]
    caller = new_node_at()
    near = caller.at(host).connect(b"nobody" + bytes(26))
    assert near.messages_until_end() == []
    assert host.wait_for_end_of(near).reason == "no listener for that key"


def test_accept_of_nobody_is_refused_at_once(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    first, second, _ = relay.hosts
    node = new_node_at()
    node.at(first).listen()
    for host in (first, second):
        far = node.at(host).accept(b"nobody" + bytes(26))
        assert far.messages_until_end() == []
        assert host.wait_for_end_of(far).reason == "no connect from that key is pending"


def test_connect_of_a_peer_that_leaves_is_withdrawn(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    first, second, _ = relay.hosts
    node, caller = new_node_at(), new_node_at()
    listener = node.at(first).listen()
    near = caller.at(second).connect(node.public_key)
    assert listener.incoming() == caller.public_key
    wait_until(lambda: first.state().figures["pending_connects"] == 1)
    near.close()
    wait_until(lambda: first.state().figures["pending_connects"] == 0)
    far = node.at(second).accept(caller.public_key)
    assert far.messages_until_end() == []


def test_home_sees_the_key_and_address_of_the_peer(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    first, second, _ = relay.hosts
    node, caller = new_node_at(), new_node_at()
    listener = node.at(first).listen()
    near = caller.at(second).connect(node.public_key)
    listener.reject(listener.incoming())
    first.wait_for_end_of(near)


# Strangers at the port for hosts.


def add_member(server: DirectoryServer, relay: FleetProcesses, keys: KeyPair) -> None:
    """Write a host that the test plays into the directory."""
    host = Host(encode_key(keys.public_key), "played", Address("127.0.0.1", 1))
    _, store, *_ = Entries(relay.public_key).show_host(host)
    server.ask(*store[:-1], 60_000)


def test_host_that_is_not_in_the_directory_is_refused(relay: FleetProcesses) -> None:
    host = relay.hosts[0]
    with dialed_host(host, KeyPair()) as stranger:
        stranger.send(Order("taken", b"K" * 32, epoch=2**52).encode())
        stranger.wait_for_close()
    host.wait_for_line('^warning: host connection failed: .*detail="the directory has no host with that key"')


def test_relays_own_identity_is_refused(relay: FleetProcesses, server: DirectoryServer) -> None:
    keys = KeyPair(load_identity(relay.identity).seed)
    add_member(server, relay, keys)
    with dialed_host(relay.hosts[0], keys) as host:
        host.wait_for_close()


@pytest.fixture
def member(relay: FleetProcesses, server: DirectoryServer) -> KeyPair:
    """The keys of a host in the directory, which the test plays."""
    keys = KeyPair()
    add_member(server, relay, keys)
    return keys


def test_member_hands_over_a_peer(relay: FleetProcesses, member: KeyPair, new_node_at: NewNodeAt) -> None:
    host = relay.hosts[0]
    node = new_node_at().at(host)
    listener = node.listen()
    address = PeerAddress("192.0.2.7:999", "192.0.2.7", "192.0.2.7")
    with dialed_host(host, member) as near:
        near.send(Order("connect", b"C" * 32, node.public_key, address).encode())
        assert listener.incoming() == b"C" * 32
        far = node.accept(b"C" * 32)
        assert Answer.decode(near.receive()) == Answer()
        assert_joined(near, far)
    host.wait_for_line("^tunnel opened: .*connect_address=192.0.2.7:999")


@pytest.mark.parametrize(
    "messages",
    [
        [b""],
        [b"{}"],
        [b'{"version": 9, "kind": "connect"}'],
        [Order("connect", b"C" * 32, b"T" * 32, PeerAddress("x", "y", "z")).encode()] * 20,
        [Order("taken", b"C" * 32, epoch=-1).encode()] * 20,
        [bytes(100_000)],
    ],
)
def test_member_with_a_fault_ends_its_own_connection(
    relay: FleetProcesses, member: KeyPair, new_node: NewNode, messages: list[bytes]
) -> None:
    with dialed_host(relay.hosts[0], member) as faulty:
        with contextlib.suppress(Ended):
            for message in messages:
                faulty.send(message)
        faulty.wait_for_close()
    callee = new_node()
    assert_listening(new_node(), callee, callee.listen())


def test_no_host_logged_a_bug(relay: FleetProcesses, new_node: NewNode) -> None:
    new_node().open()
    assert relay.failures == []
