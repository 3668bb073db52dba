"""examples/listener.py and examples/caller.py: the shortest programs with the client."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from offset_common.client import RelayTicket, connect
from offset_common.identity import Identity, encode_key, save_identity
from tests.support.client import start_listening
from tests.support.process import PATIENCE, ROOT, LoggedProcess, wait_until
from tests.support.relay_process import RelayProcess, StartRelay


class Programs:
    """The files of a listener and a caller."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home, self.phone = Identity.generate(), Identity.generate()
        save_identity(self.home, directory / "home")
        save_identity(self.phone, directory / "phone")

    def listen(self, relay: RelayProcess) -> LoggedProcess:
        """Start the listener and wait until it listens."""
        relay.ticket.save(self.directory / "ticket")
        listener = LoggedProcess(self.command("listener.py", "ticket", "home"), self.directory)
        listener.wait_for_line("^listening for ")
        return listener

    def call(self, key: str = "") -> subprocess.CompletedProcess[str]:
        """Run the caller."""
        return subprocess.run(
            self.command("caller.py", "ticket", "phone", key or encode_key(self.home.public_key)),
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def answered(self) -> bool:
        """Return whether the caller gets its answer."""
        return self.call().stdout == "you said hello\n"

    @staticmethod
    def command(script: str, *arguments: str) -> list[str]:
        """Return the command line of an example."""
        return [sys.executable, str(ROOT / "examples" / script), *arguments]


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@pytest.fixture
def listening(programs: Programs, relay: RelayProcess) -> Iterator[LoggedProcess]:
    listener = programs.listen(relay)
    yield listener
    listener.kill()


def disturb_plainly(ticket: RelayTicket, key: bytes) -> None:
    with connect(ticket, Identity.generate(), key) as plain:
        plain.send(b"no handshake")


def disturb_by_crashing(ticket: RelayTicket, key: bytes) -> None:
    crashing = connect(ticket, Identity.generate(), key, end_to_end=True)
    crashing.send(bytes(500_000))
    crashing.abort()


def disturb_by_silence(ticket: RelayTicket, key: bytes) -> None:
    connect(ticket, Identity.generate(), key)  # stays open: the test ends before the listener gives up


@pytest.mark.parametrize("disturb", [disturb_plainly, disturb_by_crashing, disturb_by_silence])
@pytest.mark.usefixtures("listening")
def test_listener_survives_a_bad_caller(disturb, programs: Programs, relay: RelayProcess) -> None:
    wait_until(programs.answered, "an answer")
    disturb(relay.ticket, programs.home.public_key)
    assert programs.answered()


def test_listener_survives_a_relay_restart(programs: Programs, start_relay: StartRelay) -> None:
    first = start_relay()
    listener = programs.listen(first)
    try:
        wait_until(programs.answered, "an answer")
        first.kill()
        listener.wait_for_line("^not listening: .*; retrying in ")
        start_relay(address=first.addresses[0], identity=first.identity)
        listener.wait_for_line("^listening for ", count=2)
        wait_until(programs.answered, "an answer after the restart")
    finally:
        listener.kill()


def test_listener_ends_quietly_at_ctrl_c(listening: LoggedProcess) -> None:
    shown = list(listening.lines)
    assert listening.stop(signal.SIGINT) == -signal.SIGINT  # a shell calls it 130
    assert listening.lines == shown


def test_caller_explains_an_absent_listener(programs: Programs, relay: RelayProcess) -> None:
    relay.ticket.save(programs.directory / "ticket")
    assert programs.call().stderr == "caller: the listener is not there, or does not want this call\n"


def test_caller_explains_an_absent_relay(programs: Programs, start_relay: StartRelay) -> None:
    gone = start_relay()
    gone.ticket.save(programs.directory / "ticket")
    gone.kill()
    assert programs.call().stderr.startswith("caller: the relay cannot be reached; try again later: ")


def test_caller_names_a_wrong_key(programs: Programs, relay: RelayProcess) -> None:
    relay.ticket.save(programs.directory / "ticket")
    assert programs.call("key").stderr.startswith("caller: the key of the listener has 3 characters")


def test_rejected_caller_gets_the_same_reason(programs: Programs, relay: RelayProcess) -> None:
    relay.ticket.save(programs.directory / "ticket")
    with start_listening(relay, programs.home) as listener:
        command = programs.command("caller.py", "ticket", "phone", encode_key(programs.home.public_key))
        calling = LoggedProcess(command, programs.directory)
        listener.receive(PATIENCE).reject()
        calling.wait_for_line("^caller: the listener is not there, or does not want this call$")
        assert calling.wait() == 1
