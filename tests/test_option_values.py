"""Numbers on command lines: what is read, and how the error of an invalid one helps."""

from __future__ import annotations

import pytest

from offset_common.errors import UsageError, quote
from offset_common.option_values import read_choice, read_count, read_number


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("12.5", 12.5), ("1e3", 1000), ("1048576", 1048576)])
def test_a_number_is_read(text, number):
    assert read_number("--buffers", text, 1, 1 << 20, "MiB") == number


@pytest.mark.parametrize(
    ("unit", "text", "hint"),
    [
        ("MiB", "1g", "; for 1g write 1024"),
        ("MiB", "64 MB", "; for 64 MB write 64"),
        ("MiB", "512k", ""),  # half a MiB is too little
        ("MiB", "1536k", "; for 1536k write 1.5"),
        ("KiB", "2m", "; for 2m write 2048"),
        ("seconds", "2m", "; for 2m write 120"),
        ("seconds", "1.5h", "; for 1.5h write 5400"),
        ("seconds", "1w", ""),
        ("MiB", "all", ""),
        ("MiB", "0", ""),
        ("MiB", "nan", ""),
        ("MiB", "9" * 400, ""),
        ("MiB", "１２", ""),
        ("MiB", "1_0", ""),
        ("MiB", "", ""),
    ],
)
def test_an_invalid_number_is_explained_in_its_unit(unit, text, hint):
    with pytest.raises(UsageError) as caught:
        read_number("--option", text, 1, 1 << 20, unit)
    assert (
        str(caught.value) == f"--option must be a number of {unit} from 1 to 1048576, not {quote(text)}{hint}"
    )


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("007", 7), ("256", 256)])
def test_a_count_is_read(text, count):
    assert read_count("--workers", text, 256) == count


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10k", "; for 10k write 10000"),
        ("0", ""),
        ("1.5", ""),
        ("٣", ""),
        ("9" * 5000, ""),
        ("20m", ""),
        ("", ""),
    ],
)
def test_an_invalid_count_is_explained(text, hint):
    with pytest.raises(UsageError) as caught:
        read_count("--connections", text, 10_000_000)
    assert (
        str(caught.value)
        == f"--connections must be a whole number from 1 to 10000000, not {quote(text)}{hint}"
    )


def test_a_choice_is_read_and_others_are_refused():
    assert read_choice("--log-format", "json", ["text", "json"]) == "json"
    with pytest.raises(UsageError, match="--log-format must be text or json, not 'xml'"):
        read_choice("--log-format", "xml", ["text", "json"])
