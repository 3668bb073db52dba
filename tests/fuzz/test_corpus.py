"""The fuzzer's seeds, and the inputs that once failed, pass without atheris."""

from __future__ import annotations

import sys

import pytest

from tests.fuzz import __main__ as program
from tests.fuzz.targets import TARGETS, known_inputs

NAMES = sorted(TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_and_old_crashes_pass(name):
    inputs = list(known_inputs(name))
    assert inputs
    for data in inputs:
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", NAMES)
def test_truncated_seeds_pass(name):
    for number, data in enumerate(known_inputs(name)):
        TARGETS[name].run(data[: len(data) * (number % 10) // 10])


def test_saved_input_is_run_again_without_atheris(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "atheris", None)
    saved = tmp_path / "saved"
    saved.write_bytes(next(TARGETS["messages"].seeds()))
    assert program.main(["messages", "--input", str(saved)]) == 0
    assert "no failure; inputs: 1" in capsys.readouterr().out


def test_bug_of_a_target_is_shown_by_a_saved_input(tmp_path, monkeypatch):
    def run(data):
        raise IndexError(data)

    monkeypatch.setitem(TARGETS, "messages", TARGETS["messages"]._replace(run=run))
    (tmp_path / "saved").write_bytes(b"failing")
    with pytest.raises(IndexError, match="failing"):
        program.main(["messages", "--input", str(tmp_path)])


def test_missing_atheris_is_reported(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "atheris", None)
    assert program.main(["--seconds", "1", "messages"]) == 0
    assert capsys.readouterr().out == program.NO_ATHERIS + "\n"
