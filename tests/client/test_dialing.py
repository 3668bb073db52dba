"""The steps of dialing a relay, one by one, and the error of each."""

from __future__ import annotations

import socket
import threading

import pytest

from offset_common.address import Address
from offset_common.client import (
    Deadline,
    Dialing,
    Step,
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
    refused,
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
    with refused(Step.HANDSHAKE, "another identity .*; check that this is the relay's newest ticket$"):
        listen(ticket, Identity.generate())


def test_unknown_name_is_reported(monkeypatch):
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with refused(Step.NAME, r"relay\.example does not resolve: Name or service"):
        dial(ticket_for(1337, "relay.example"), Identity.generate())


def test_hanging_lookup_times_out(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(PATIENCE) and [])
    try:
        with refused(Step.NAME, r"more than 0\.05 s"):
            dial(ticket_for(1337, "relay.example"), Identity.generate(), timeout=0.05)
    finally:
        release.set()


def test_closed_port_is_reported():
    port = free_port()
    with refused(Step.TCP, f"no TCP connection to {LOCALHOST}:{port}: .*refused"):
        dial(ticket_for(port), Identity.generate())


def test_second_address_is_tried(relay):
    refused = find_addresses(Address(LOCALHOST, free_port()), Deadline(PATIENCE))
    found = refused + find_addresses(relay.ticket.address, Deadline(PATIENCE))
    with open_socket(relay.ticket.address, found, Deadline(PATIENCE)) as sock:
        assert sock.getpeername()[1] == relay.ticket.address.port


@pytest.mark.parametrize(
    ("said", "sentence", "step"),
    [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "not a relay that this program can use: not an Offset peer",
            Step.VERSION,
        ),
        (b"SSH-2", "did not finish the version in 0.2 s", Step.VERSION),
        (encode_frame(b"\0\0\0\1"), "protocol version 1", Step.VERSION),
        (encode_frame(b""), "a version of 0 bytes", Step.VERSION),
        (b"\0\0\0\4\0\0\0\0", "older than 0.1.3", Step.VERSION),
        (b"", "did not finish the version in 0.2 s", Step.VERSION),
        (encode_frame(bytes(4)), "did not finish the handshake in 0.2 s", Step.HANDSHAKE),
        (encode_frame(bytes(4)) + encode_frame(b"\xffgarbage"), "did not prove the identity", Step.HANDSHAKE),
    ],
)
def test_other_servers_are_reported_by_step(said, sentence, step):
    def serve(sock: socket.socket) -> None:
        sock.sendall(said)
        wait_for_end(sock)

    with fake_server(serve) as ticket, refused(step, sentence):
        dial(ticket, Identity.generate(), timeout=0.2)


def test_relay_that_hangs_up_is_reported():
    with fake_server(lambda sock: None) as ticket, refused(Step.VERSION, "ended the connection during the"):
        dial(ticket, Identity.generate(), timeout=PATIENCE)
