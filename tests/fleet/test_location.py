"""The value of --fleet: every form is read, and no error shows a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from offset_common.address import Address
from offset_common.errors import FileError, UsageError
from offset_common.fleet.location import Kind, Location, has_password, parse_location, read_location

ONE, TWO = Address("10.0.0.9", 6379), Address("10.0.0.8", 6380)


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("valkey://10.0.0.9", Location(Kind.SINGLE, [ONE])),
        ("redis://10.0.0.9:6379/3", Location(Kind.SINGLE, [ONE], database=3)),
        ("valkeys://u:p%40ss@10.0.0.9", Location(Kind.SINGLE, [ONE], True, "u", "p@ss")),
        ("rediss://:p@10.0.0.9/", Location(Kind.SINGLE, [ONE], True, None, "p")),
        ("valkey://[2001:db8::1]", Location(Kind.SINGLE, [Address("2001:db8::1", 6379)])),
        (
            "valkey+sentinel://10.0.0.9:6379,10.0.0.8:6380/main/1?sentinel-password=s",
            Location(
                Kind.SENTINEL, [ONE, TWO], database=1, service="main", options={"sentinel-password": "s"}
            ),
        ),
        (
            "redis+sentinel://10.0.0.9/main",
            Location(Kind.SENTINEL, [Address("10.0.0.9", 26379)], service="main"),
        ),
        ("valkeys+cluster://10.0.0.9,10.0.0.8:6380", Location(Kind.CLUSTER, [ONE, TWO], True)),
        ("unix:///run/valkey.sock?db=2", Location(Kind.SINGLE, (), database=2, path="/run/valkey.sock")),
    ],
)
def test_every_form_is_read(text: str, location: Location) -> None:
    assert parse_location(text) == location


@pytest.mark.parametrize(
    "text",
    [
        *("", "valkey", "valkey://", "10.0.0.9:6379", "http://secret@10.0.0.9", "valkey+mesh://u:secret@h"),
        *("valkey://:secret@a,b", "valkey://:secret@h:0", "valkey://:secret@h:99999", "valkey://:secret@h:x"),
        *("valkey://:secret@h:000001999999", f"valkey://:secret@h:{'9' * 5000}"),
        *("valkey://:secret@h/x", "valkey://:secret@h/1/2", "valkey+sentinel://:secret@h", "valkey://h/-1"),
        *(
            "valkey+cluster://:secret@h/1",
            "valkey://:secret@h?secret=1",
            "unix://secret",
            "unix:///p?secret=1",
        ),
        *(
            "valkey://:secret@h\n",
            "valkey://:secret@[h",
            "valkey://:secret@h/99999999999",
            "valkey://:secret@,",
        ),
    ],
)
def test_error_says_what_to_write_and_quotes_nothing(text: str) -> None:
    with pytest.raises(UsageError, match=r"write it as valkey://HOST") as error:
        parse_location(text)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("valkey://:p@h", True),
        ("valkey://u:p@h", True),
        ("valkey+sentinel://h/main?sentinel-password=p", True),
        ("valkey://u@h", False),
        ("valkey://h:6379/0", False),
        ("@/etc/file:with@signs", False),
    ],
)
def test_password_on_a_command_line_is_noticed(text: str, expected: bool) -> None:
    assert has_password(text) is expected


def test_file_has_one_line_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "fleet"
    file.write_bytes(b"\xef\xbb\xbf# the directory\r\n\r\nvalkey://:secret@10.0.0.9\r\n")
    location = read_location(f"@{file}")
    assert location == Location(Kind.SINGLE, [ONE], password="secret")
    assert "secret" not in repr(location)


@pytest.mark.parametrize("content", [b"", b"a\nb\n", b"valkey://:secret@h:x\n", b"\xff\xfe", b"\0" * 100])
def test_damaged_file_is_reported_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "fleet"
    file.write_bytes(content)
    with pytest.raises(FileError) as error:
        read_location(f"@{file}")
    assert str(file) in str(error.value) and "\n" not in str(error.value) and "secret" not in str(error.value)


def test_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="missing"):
        read_location(f"@{tmp_path / 'missing'}")
