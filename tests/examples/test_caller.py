"""examples/caller.py: every reason why nobody answers."""

from __future__ import annotations

from pathlib import Path

from offset_common.identity import encode_key
from tests.examples.programs import Programs
from tests.support.client import start_listening
from tests.support.process import PATIENCE, LoggedProcess
from tests.support.relay_process import StartRelay


def test_caller_explains_an_absent_listener(programs: Programs) -> None:
    assert programs.call().stderr == "caller: the listener is not there, or rejected the call\n"


def test_rejected_caller_gets_the_same_reason(programs: Programs) -> None:
    with start_listening(programs.relay, programs.home) as listener:
        command = programs.command("caller.py", "ticket", "phone", encode_key(programs.home.public_key))
        calling = LoggedProcess(command, programs.directory)
        listener.receive(PATIENCE).reject()
        calling.wait_for_line("^caller: the listener is not there, or rejected the call$")
        assert calling.wait() == 1


def test_caller_explains_an_absent_relay(tmp_path: Path, start_relay: StartRelay) -> None:
    programs = Programs(tmp_path, start_relay())
    programs.relay.kill()
    assert programs.call().stderr.startswith("caller: the relay cannot be reached; try again later: ")


def test_caller_names_a_wrong_key(programs: Programs) -> None:
    assert programs.call("key").stderr.startswith("caller: the key of the listener has 3 characters")
