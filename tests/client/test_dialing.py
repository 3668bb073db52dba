"""The steps of dialing a relay, one by one, and the error of each."""

from __future__ import annotations

import errno
import socket
import sys
import threading
import time

import pytest

from offset_common.address import Address
from offset_common.client import (
    Deadline,
    Dialing,
    RelayUnreachable,
    Step,
    WrongRelay,
    dial,
    find_addresses,
    listen,
    open_socket,
    start_listener,
)
from offset_common.identity import Identity
from offset_common.tickets import RelayTicket
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import ExchangeRandNonce, KaMessage
from tests.support.client import (
    fake_server,
    open_descriptors,
    refused,
    silent_address,
    ticket_for,
    wait_for_end,
)
from tests.support.process import PATIENCE, free_port, wait_until
from tests.support.relay_process import LOCALHOST


def test_steps_can_be_taken_one_by_one(relay):
    seen: list[object] = []
    deadline = Deadline(PATIENCE)
    ticket = relay.ticket
    found = find_addresses(ticket.address, deadline)
    sock = open_socket(ticket.address, found, deadline)
    dialing = Dialing(sock, ticket, Identity.generate(), lambda direction, value: seen.append(value))
    dialing.exchange_versions(deadline)
    assert seen[-1] == bytes(4)
    dialing.complete_handshake(deadline)
    assert [type(value) for value in seen].count(ExchangeRandNonce) == 2
    with start_listener(dialing):
        wait_until(lambda: any(isinstance(value, KaMessage) for value in seen))


def test_relay_with_another_key_is_rejected(relay):
    ticket = RelayTicket(Identity.generate().public_key, relay.ticket.address)
    with refused(
        WrongRelay, Step.HANDSHAKE, "not the expected one.*; check that this is the relay's newest ticket$"
    ):
        listen(ticket, Identity.generate())


def test_unknown_name_is_reported(monkeypatch):
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with refused(RelayUnreachable, Step.NAME, r"relay\.example does not resolve: Name or service"):
        dial(ticket_for(1337, "relay.example"), Identity.generate())


def test_python_without_ipv6_connects_by_ipv4(monkeypatch):
    # A Python without IPv6 returns this for an IPv6 address.
    found: list[object] = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (10, bytes(24)))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with refused(
        RelayUnreachable, Step.NAME, r"relay\.example has IPv6 addresses only, but this Python has no"
    ):
        dial(ticket_for(1337, "relay.example"), Identity.generate())
    found.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", (LOCALHOST, 1337)))
    (usable,) = find_addresses(Address("relay.example", 1337), Deadline(PATIENCE))
    assert usable.sockaddr == (LOCALHOST, 1337)


def test_hanging_lookup_times_out(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(PATIENCE) and [])
    try:
        with refused(RelayUnreachable, Step.NAME, r"more than 0\.05 s"):
            dial(ticket_for(1337, "relay.example"), Identity.generate(), timeout=0.05)
    finally:
        release.set()


def test_closed_port_is_reported():
    port = free_port()
    with refused(RelayUnreachable, Step.TCP, f"no TCP connection to {LOCALHOST}:{port}: .*refused"):
        dial(ticket_for(port), Identity.generate())


def test_relay_found_too_late_is_reported_as_silent():
    address = Address(LOCALHOST, free_port())
    found = find_addresses(address, Deadline(PATIENCE))
    with refused(RelayUnreachable, Step.TCP, "no answer within 0 s"):
        open_socket(address, found, Deadline(0))


def test_second_address_is_tried(relay):
    refused = find_addresses(Address(LOCALHOST, free_port()), Deadline(PATIENCE))
    found = refused + find_addresses(relay.ticket.address, Deadline(PATIENCE))
    with open_socket(relay.ticket.address, found, Deadline(PATIENCE)) as sock:
        assert sock.getpeername()[1] == relay.ticket.address.port


@pytest.mark.skipif(sys.platform != "linux", reason="needs a queue of connections that drops silently")
def test_silent_address_hardly_delays_the_next_one(relay):
    with silent_address() as silent:
        found = [silent, silent, *find_addresses(relay.ticket.address, Deadline(PATIENCE))]
        descriptors = open_descriptors()
        started = time.monotonic()
        with open_socket(relay.ticket.address, found, Deadline(PATIENCE)) as sock:
            assert sock.getpeername()[1] == relay.ticket.address.port
            assert time.monotonic() - started < PATIENCE / 4
            assert open_descriptors() == descriptors + 1
        with refused(RelayUnreachable, Step.TCP, "no answer within 0.5 s"):
            open_socket(relay.ticket.address, found[:2], Deadline(0.5))
        assert open_descriptors() == descriptors


@pytest.mark.parametrize("call", ["setsockopt", "connect"])
def test_attempt_that_fails_leaves_no_descriptor(relay, monkeypatch, call):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOBUFS, "no buffer space")

    found = find_addresses(relay.ticket.address, Deadline(PATIENCE))
    before = open_descriptors()
    with monkeypatch.context() as broken:
        broken.setattr(socket.socket, call, fail)
        with pytest.raises(RelayUnreachable, match="no buffer space") as caught:
            open_socket(relay.ticket.address, found, Deadline(PATIENCE))
    assert open_descriptors() == before, caught  # whose traceback would keep a socket open


VERSION = encode_frame(bytes(4))


@pytest.mark.parametrize(
    ("said", "kind", "step", "sentence"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", WrongRelay, Step.VERSION, "not a relay .*: not an Offset peer"),
        (b"SSH-2", RelayUnreachable, Step.VERSION, "did not complete the version exchange within 0.2 s"),
        (encode_frame(b"\0\0\0\1"), WrongRelay, Step.VERSION, "protocol version 1"),
        (encode_frame(b""), WrongRelay, Step.VERSION, "a version of 0 bytes"),
        (b"\0\0\0\4\0\0\0\0", WrongRelay, Step.VERSION, "older than 0.1.3"),
        (b"", RelayUnreachable, Step.VERSION, "did not complete the version exchange within 0.2 s"),
        (VERSION, RelayUnreachable, Step.HANDSHAKE, "did not complete the handshake within 0.2 s"),
        (VERSION + encode_frame(b"\xffgarbage"), WrongRelay, Step.HANDSHAKE, "did not prove the identity"),
    ],
)
def test_other_servers_are_reported_by_step(said, kind, step, sentence):
    def serve(sock: socket.socket) -> None:
        sock.sendall(said)
        wait_for_end(sock)

    def time_for(each: Step) -> Deadline:
        return Deadline(0.2 if each is step and "0.2 s" in sentence else PATIENCE)

    with fake_server(serve) as ticket, refused(kind, step, sentence):
        found = find_addresses(ticket.address, time_for(Step.NAME))
        sock = open_socket(ticket.address, found, time_for(Step.TCP))
        dialing = Dialing(sock, ticket, Identity.generate(), None)
        dialing.exchange_versions(time_for(Step.VERSION))
        dialing.complete_handshake(time_for(Step.HANDSHAKE))


def test_relay_that_hangs_up_is_reported():
    with (
        fake_server(lambda sock: None) as ticket,
        refused(RelayUnreachable, Step.VERSION, "ended the connection during the"),
    ):
        dial(ticket, Identity.generate(), timeout=PATIENCE)
