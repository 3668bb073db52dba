"""stmgr relay-check uses every address of the relay's name, and names those that do not work."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import stmgr
from offset_common.address import Address
from offset_common.client import Deadline, find_addresses
from offset_common.identity import Identity, save_identity
from offset_common.tickets import RelayTicket
from offset_common.tools import address_check
from offset_common.tools.failures import Cause
from tests.support.channel import Channel, KeyPair
from tests.support.client import fake_server
from tests.support.fleet import DirectoryServer
from tests.support.hosts import unanswered_port
from tests.support.peer import Peer
from tests.support.process import PATIENCE
from tests.support.relay_process import RelayProcess, StartRelay, start_relay, write_identity

__all__ = ["start_relay"]

NAME = "relay.example"
Check = Callable[..., tuple[int, str]]


@pytest.fixture
def both(start_relay: StartRelay) -> RelayProcess:
    """A relay at every IPv4 address of this machine: all of 127.0.0.0/8."""
    return start_relay(address="0.0.0.0:0")


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Check:
    """Check a relay whose name has the given addresses; return the status and the output."""

    def run(relay: RelayProcess, hosts: list[str], *options: str) -> tuple[int, str]:
        def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
            assert host == NAME
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in hosts]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        path = tmp_path / "a.relay"
        path.unlink(missing_ok=True)
        RelayTicket(relay.public_key, Address(NAME, relay.port)).save(path)
        status = stmgr.main(["relay-check", str(path), "--quick", *options])
        return status, capsys.readouterr().out

    return run


def test_name_that_leads_to_this_machine_is_pointed_out(both: RelayProcess, check: Check) -> None:
    _, out = check(both, ["127.0.1.1"])
    assert re.search(
        r"ok  name lookup .*  127\.0\.1\.1: this machine itself; check from another one, too", out
    )


def test_check_points_out_a_name_that_a_filter_blocks(both: RelayProcess, check: Check) -> None:
    _, out = check(both, ["0.0.0.0"])
    assert re.search(
        r"ok  name lookup .*  0\.0\.0\.0: a filter such as an ad blocker gives this answer for a name", out
    )


def test_relay_works_if_all_its_addresses_do(both: RelayProcess, check: Check) -> None:
    status, out = check(both, ["127.0.0.1", "127.0.0.2"])
    assert status == 0
    assert "2 of 2 work" in out
    assert "nodes meet through all 2 pairs of addresses" in out
    assert out.endswith("\nthe relay works\n")


def test_both_nodes_may_have_one_identity(both: RelayProcess, check: Check, tmp_path: Path) -> None:
    identity = tmp_path / "check.ident"
    save_identity(Identity.generate(), identity)
    status, out = check(both, ["127.0.0.1", "127.0.0.2"], "--idfile", str(identity))
    assert status == 0
    assert "nodes meet through all 2 pairs of addresses" in out


def test_address_where_nothing_listens_is_reported(start_relay: StartRelay, check: Check) -> None:
    status, out = check(start_relay(), ["127.0.0.2", "127.0.0.1"])
    assert status == 1
    assert "  FAILED  127.0.0.2  no TCP connection to 127.0.0.2:" in out
    assert "what happened: the relay works at 127.0.0.1, but no TCP connection to 127.0.0.2" in out
    assert f"remove that address from the name {NAME}" in out
    assert "message back" in out, "the address that works is still checked to the end"


def test_addresses_that_drop_packets_cost_one_timeout(start_relay: StartRelay, check: Check) -> None:
    relay = start_relay()
    silent = [f"127.0.0.{number}" for number in range(2, 10)]
    with contextlib.ExitStack() as stack:
        for host in silent:
            stack.enter_context(unanswered_port(host, relay.port))
        start = time.monotonic()
        status, out = check(relay, [*silent, "127.0.0.1"], "--timeout", "2")
        assert time.monotonic() - start < 2 * len(silent) - 2
    assert status == 1
    for host in silent:
        assert f"  FAILED  {host}  no TCP connection to {host}:{relay.port}: no answer within 2 s" in out


def test_json_has_a_result_for_each_address(start_relay: StartRelay, check: Check) -> None:
    _, out = check(start_relay(), ["127.0.0.1", "127.0.0.2"], "--json")
    report = json.loads(out)
    works, fails = report["addresses"]
    assert (works["address"], works["ok"], works["failure"]) == ("127.0.0.1", True, None)
    assert (fails["address"], fails["ok"]) == ("127.0.0.2", False)
    assert fails["failure"]["cause"] == Cause.NOTHING_LISTENS.value
    assert report["failure"]["cause"] == Cause.SOME_ADDRESSES.value


def test_address_with_another_key_is_reported(start_relay: StartRelay, check: Check, tmp_path: Path) -> None:
    relay = start_relay()
    start_relay(address=f"127.0.0.2:{relay.port}", identity=write_identity(tmp_path))
    status, out = check(relay, ["127.0.0.1", "127.0.0.2"])
    assert status == 1
    assert f"the relay at 127.0.0.2:{relay.port} has another identity" in out


def test_address_without_a_route_is_not_judged(
    both: RelayProcess, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = address_check._has_route
    monkeypatch.setattr(
        address_check, "_has_route", lambda each: each.sockaddr[0] != "127.0.0.9" and real(each)
    )
    status, out = check(both, ["127.0.0.9", "127.0.0.1"])
    assert status == 0
    assert "  --  127.0.0.9  not checked: this machine has no route to it" in out


def test_name_without_a_working_address_fails(check: Check) -> None:
    class Closed:
        public_key = bytes(32)
        port = 1

    status, out = check(Closed(), ["127.0.0.1", "127.0.0.2"])
    assert status == 1
    assert "FAILED  127.0.0.1" in out
    assert "FAILED  127.0.0.2" in out
    assert "what happened: no TCP connection to 127.0.0.1:1" in out


def test_addresses_of_two_relays_are_noticed(start_relay: StartRelay, check: Check) -> None:
    one = start_relay()
    start_relay(address=f"127.0.0.2:{one.port}", identity=one.identity)
    status, out = check(one, ["127.0.0.1", "127.0.0.2"], "--timeout", "3", "--json")
    assert status == 1
    assert json.loads(out)["failure"]["cause"] == Cause.NOT_ANNOUNCED.value


def test_hosts_of_a_fleet_pass_and_others_are_reported(
    start_relay: StartRelay, check: Check, tmp_path: Path
) -> None:
    server = DirectoryServer(tmp_path)
    try:
        fleet = ("--fleet", server.url, "--fleet-laddr", "127.0.0.1:0")
        one = start_relay(*fleet)
        two = start_relay(*fleet, address=f"127.0.0.2:{one.port}", identity=one.identity)
        for host in (one, two):
            host.wait_for_line("^directory present")
        status, out = check(one, ["127.0.0.1", "127.0.0.2"])
        assert status == 0 and "all 2 pairs" in out
        identity = tmp_path / "check.ident"
        save_identity(Identity.generate(), identity)
        status, out = check(one, ["127.0.0.1", "127.0.0.2"], "--idfile", str(identity))
        assert status == 0 and "all 2 pairs" in out
        start_relay(address=f"127.0.0.3:{one.port}", identity=one.identity)
        addresses = ["127.0.0.1", "127.0.0.3", "127.0.0.2"]
        status, out = check(one, addresses, "--timeout", "3", "--json")
        failure = json.loads(out)["failure"]
        assert status == 1 and failure["cause"] == Cause.NOT_ANNOUNCED.value
        assert "from 127.0.0.3 to 127.0.0.1" in failure["reason"]
    finally:
        server.kill()


def test_checked_addresses_see_no_reset(both: RelayProcess, check: Check) -> None:
    status, out = check(both, ["127.0.0.1", "127.0.0.2"])
    assert status == 0, out
    both.wait_until_empty()
    assert len(both.ends()) == 9  # 2 to check the addresses, 3 to pass messages, 2 for each of 2 pairs
    assert {end.reason for end in both.ends()} <= {"the peer closed", "the other end of the tunnel ended"}


def test_relay_that_never_stops_sending_works() -> None:
    keys = KeyPair()

    def send_on(sock: socket.socket) -> None:
        Peer(sock, Channel(keys)).handshake()
        long = Deadline(20.0)
        with contextlib.suppress(OSError):  # the check closes the connection
            while long.left():
                sock.sendall(bytes(1000))

    with fake_server(send_on) as server:
        ticket = RelayTicket(keys.public_key, server.address)
        found = find_addresses(ticket.address, Deadline(PATIENCE))
        (result,) = address_check.check_addresses(ticket, found, timeout=PATIENCE)
    assert result.works


def test_silent_program_at_an_address_is_reported(start_relay: StartRelay, check: Check) -> None:
    relay = start_relay()
    with socket.create_server(("127.0.0.2", relay.port)):
        status, out = check(relay, ["127.0.0.1", "127.0.0.2"], "--timeout", "3")
    assert status == 1
    assert "FAILED  127.0.0.2  127.0.0.2" in out
    assert "did not complete the version exchange within 3 s" in out
