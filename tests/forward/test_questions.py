"""`stforward share` at a terminal: which lines answer which question, also in the background of a shell."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from offset_common.forward.peers import Peer, Peers, Rule
from tests.forward.programs import Machine, Setting
from tests.support.process import LoggedProcess, wait_until
from tests.terminals import Terminal


class Asked:
    """A share at a terminal."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.terminal = Terminal(setting.share_command("9"))
        self.terminal.wait_for("waiting for connections")

    def call(self, machine: Machine) -> LoggedProcess:
        """Return a program that waits for the answer."""
        program = self.setting.start(machine, "to", str(self.setting.code), "0")
        program.wait_for_line("^waiting until the other machine lets this key in: ")
        return program

    def call_two(self) -> tuple[LoggedProcess, LoggedProcess]:
        """Return the programs of two machines that wait, in the order of their questions."""
        first = self.call(self.setting.laptop)
        return first, self.call(Machine(self.setting.path / "other"))


@pytest.fixture
def asked(setting: Setting) -> Iterator[Asked]:
    asked = Asked(setting)
    yield asked
    asked.terminal.close()


def test_line_typed_before_the_question_is_not_an_answer(asked: Asked) -> None:
    asked.terminal.type("yes\n")
    asked.terminal.wait_for("yes")  # the echo
    program = asked.call(asked.setting.laptop)
    asked.terminal.wait_for("let in? y/N")
    asked.terminal.type("n\n")
    assert program.wait() == 1
    program.wait_for_line("the user there said no$")


def test_two_lines_at_once_answer_one_question(asked: Asked) -> None:
    first, second = asked.call_two()
    asked.terminal.type("y\ny\n")
    first.wait_for_line("^connected to ")
    wait_until(lambda: asked.terminal.text.count("let in? y/N") == 2, "the second question")
    asked.terminal.type("n\n")
    assert second.wait() == 1


def test_end_of_input_refuses_all_and_remembers_nothing(asked: Asked) -> None:
    programs = asked.call_two()
    asked.terminal.type("\x04")
    for program in programs:
        assert program.wait() == 1
        program.wait_for_line("this key is unknown; to let it in, add the line ")
    assert not (asked.setting.home.directory.path / "peers").exists()


def test_one_answer_counts_for_all_tunnels_of_a_key(asked: Asked) -> None:
    programs = [asked.call(asked.setting.laptop) for _ in range(2)]
    asked.terminal.type("y\n")
    for program in programs:
        program.wait_for_line("^connected to ")
    assert asked.terminal.text.count("let in? y/N") == 1


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_user_is_asked_once(asked: Asked, answer: str) -> None:
    setting, terminal = asked.setting, asked.terminal
    program = setting.to("0", "--name", "my-laptop")
    terminal.wait_for(f"my-laptop, key {setting.laptop.key}: let in? y/N")
    program.wait_for_line(f"^waiting until the other machine lets this key in: {setting.laptop.key}$")
    terminal.type(answer + "\n")
    if answer == "y":
        program.wait_for_line("^connected to ")
    else:
        assert program.wait() == 1
        program.wait_for_line("does not let this machine in: the user there said no$")
    rule = Rule.ALLOW if answer == "y" else Rule.DENY
    terminal.wait_for(f"remembered as '{rule.value}' in ")
    expected = [Peer(rule, setting.laptop.identity.public_key, "my-laptop")]
    assert Peers(setting.home.directory).load() == expected


# Makes the terminal of this process the one at which a shell controls its jobs.
SHELL = 'import os, sys; os.setsid(); os.open(os.ttyname(0), os.O_RDWR); os.execvp("bash", sys.argv[1:])'


@contextmanager
def background_share(setting: Setting, then: str) -> Iterator[Terminal]:
    """Share as a job in the background of a shell, which then runs a script; yield its terminal."""
    words = setting.share_command("9")
    script = f'"$@" & echo "job=$!;"; {then}'
    terminal = Terminal([sys.executable, "-c", SHELL, "bash", "-mc", script, "bash", *words])
    try:
        terminal.wait_for("waiting for connections")
        yield terminal
    finally:
        for job in re.findall(r"job=(\d+);", terminal.text):
            with suppress(ProcessLookupError):
                os.kill(int(job), signal.SIGKILL)
        terminal.close()


def test_share_in_the_background_asks_nobody(setting: Setting) -> None:
    with background_share(setting, "read line") as terminal:
        program = setting.to("0")
        terminal.wait_for(f"rejected {setting.laptop.key}: this key is unknown; to let it in, ")
        Peers(setting.home.directory).add(Rule.ALLOW, setting.laptop.identity.public_key, "laptop")
        program.wait_for_line("^connected to ")


def test_question_waits_while_share_is_in_the_background(setting: Setting) -> None:
    with background_share(setting, "fg; read line; bg; read line; fg") as terminal:
        program = setting.to("0", "--name", "my-laptop")
        terminal.wait_for("let in? y/N")
        terminal.type("\x1a")  # Ctrl-Z stops the job
        terminal.wait_for("Stopped")
        terminal.type("this goes to the shell\nand this\ny\n")
        program.wait_for_line("^connected to ")
