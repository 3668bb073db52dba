"""`stforward share` at a terminal: which lines answer which question."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.forward.programs import Machine, Setting
from tests.support.process import LoggedProcess, wait_until
from tests.terminals import Terminal


class Asked:
    """A share at a terminal."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.terminal = Terminal(setting.home.command("share", "9", "--relay", str(setting.ticket_file)))
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


def test_line_typed_before_the_question_is_no_answer(asked: Asked) -> None:
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
