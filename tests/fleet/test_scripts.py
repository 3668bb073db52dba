"""The commands of the directory give the same answers on real servers and on the simulation's model."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from offset_common.address import Address
from offset_common.fleet.entries import Command, Entries, Host
from offset_common.identity import encode_key
from tests.commands import ROOT
from tests.fleet.server_model import ServerModel
from tests.support.fleet import LIBRARIES, SERVERS, DirectoryServer, needs_server

KEYS = [bytes([number]) * 32 for number in range(3)]
HOSTS = [
    Host(encode_key(bytes([number]) * 32), f"host-{number}", Address("127.0.0.1", 1)) for number in (8, 9)
]


@pytest.fixture(params=SERVERS or [""])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[DirectoryServer]:
    server = DirectoryServer(tmp_path, request.param or needs_server())
    yield server
    server.kill()


@pytest.mark.parametrize("library", LIBRARIES)
def test_model_and_server_give_the_same_answers(server: DirectoryServer, library: str) -> None:
    module = importlib.import_module(library)
    connect = module.Valkey if library == "valkey" else module.Redis
    with connect(port=server.port) as administrator:
        administrator.execute_command(*documented_user())
    client = connect(port=server.port, username="relay", password="PASSWORD")
    model, entries, chance = ServerModel(1.0), Entries(b"R" * 32), random.Random(1)
    reserved = 10**15
    for _ in range(300):
        commands = random_commands(entries, chance, reserved)
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers = [
            set(each) if command[0] == "SMEMBERS" else each
            for command, each in zip(commands, pipeline.execute())
        ]
        assert answers == model.execute(commands), commands
    epoch = client.execute_command(*entries.reserve(reserved))
    seconds, microseconds = client.time()
    assert reserved < int(epoch) <= seconds * 1_000_000 + microseconds
    assert int(client.execute_command(*entries.reserve(2 * 10**15))) == 2 * 10**15 + 1
    assert int(client.execute_command(*entries.reserve(0))) == 2 * 10**15 + 2
    client.close()


def documented_user() -> list[str]:
    """Return the command of the page that makes a user for the hosts."""
    page = (ROOT / "docs/fleet.md").read_text("utf-8")
    (command,) = (line.split() for line in page.splitlines() if line.startswith("ACL SETUSER relay "))
    return command


def random_commands(entries: Entries, chance: random.Random, most: int) -> Sequence[Command]:
    """Return commands whose answers don't depend on the time."""
    host = chance.choice(HOSTS)
    epochs = [(key, chance.choice((1, 9, 10, 11, most))) for key in chance.sample(KEYS, chance.randint(1, 3))]
    return chance.choice(
        (
            [entries.claim(host.id, epochs)],
            [entries.claim(host.id, epochs)],
            [entries.drop(host.id, epochs)],
            [entries.read_listener(chance.choice(KEYS))],
            [entries.show_host(host)[0], entries.show_host(host)[1], entries.list_hosts()],
            [entries.read_hosts([each.id for each in HOSTS])],
            entries.remove_host(host.id)[:1],
        )
    )


def test_full_server_refuses_and_still_extends(server: DirectoryServer) -> None:
    entries = Entries(b"R" * 32)
    server.ask(*entries.claim(HOSTS[0].id, [(KEYS[0], 5)]))
    server.ask("CONFIG", "SET", "maxmemory", "1")
    refused, extended = server.ask(*entries.claim(HOSTS[0].id, [(KEYS[1], 5), (KEYS[0], 5)]))
    assert isinstance(refused, Exception) and "maxmemory" in str(refused)
    assert extended == f"5 {HOSTS[0].id}".encode()
    assert server.keys("listener") == {encode_key(KEYS[0])}


def test_every_entry_expires(server: DirectoryServer) -> None:
    entries = Entries(b"R" * 32)
    for command in (
        *entries.show_host(HOSTS[0]),
        entries.claim(HOSTS[0].id, [(KEYS[0], 5)]),
        entries.reserve(0),
    ):
        server.ask(*command)
    keys = server.ask("KEYS", "*")
    assert len(keys) == 4
    assert all(server.ask("PTTL", key) > 0 for key in keys)


@pytest.mark.parametrize("value", ["x", "-5", "9" * 300 + " x", "9" * 17, "\xff", None])
def test_foreign_entry_is_overwritten(value: object, server: DirectoryServer) -> None:
    entries, host = Entries(b"R" * 32), HOSTS[0].id
    reserve, claim = entries.reserve(0), entries.claim(host, [(KEYS[0], 5)])
    for key in (reserve[3], claim[3]):
        server.ask("RPUSH", key, "a list") if value is None else server.ask("SET", key, value)
    server.ask(*entries.drop(host, [(KEYS[0], 5)]))
    assert 0 < int(server.ask(*reserve)) < 10**16
    server.ask(*claim)
    assert server.ask(*entries.read_listener(KEYS[0])) == f"5 {host}".encode()
