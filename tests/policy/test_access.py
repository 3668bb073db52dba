"""The access file: its lines, its mistakes, and what the rules allow."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stmgr
from offset_common.errors import FileError
from offset_common.identity import Identity, encode_key
from offset_common.policy.access import AccessRules, load_access
from tests.commands import FILES, ROOT, run_strelay

ALICE, BOB, EVE = (Identity.generate().public_key for _ in range(3))
KEYS = {"ALICE": encode_key(ALICE), "BOB": encode_key(BOB), "EVE": encode_key(EVE)}


def write(path: Path, text: str) -> Path:
    """Write an access file; the names of KEYS stand for keys."""
    for name, key in KEYS.items():
        text = text.replace(name, key)
    path.write_text(text, "utf-8")
    return path


def load(directory: Path, text: str) -> AccessRules:
    return load_access(write(directory / "access.txt", text))


def mistake(directory: Path, text: str) -> str:
    """Return the reason why a file is refused."""
    with pytest.raises(FileError) as caught:
        load(directory, text)
    return caught.value.reason


def test_an_empty_file_allows_everything(tmp_path):
    rules = load(tmp_path, "# nothing\n\n   \n")
    assert rules.may_listen(ALICE)
    assert rules.may_connect(ALICE)
    assert "192.0.2.1" not in rules.denied_networks


def test_a_listen_line_excludes_all_other_listeners(tmp_path):
    rules = load(tmp_path, "listen ALICE alice\n")
    assert [rules.may_listen(key) for key in (ALICE, BOB)] == [True, False]
    assert rules.may_connect(BOB)


def test_a_connect_line_excludes_all_other_connects(tmp_path):
    rules = load(tmp_path, "connect BOB bob\n")
    assert [rules.may_connect(key) for key in (ALICE, BOB)] == [False, True]
    assert rules.may_listen(ALICE)


def test_deny_overrides_listen_and_connect(tmp_path):
    rules = load(tmp_path, "listen ALICE a\nconnect ALICE a\ndeny ALICE # left\n")
    assert not rules.may_listen(ALICE)
    assert not rules.may_connect(ALICE)


def test_deny_alone_leaves_others_allowed(tmp_path):
    rules = load(tmp_path, "deny EVE\n")
    assert rules.may_listen(ALICE)
    assert not rules.may_listen(EVE)


@pytest.mark.parametrize(
    ("denied", "inside", "outside"),
    [
        ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
        ("0.0.0.0/0", "8.8.8.8", "::1"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
    ],
)
def test_networks_are_denied(denied, inside, outside, tmp_path):
    networks = load(tmp_path, f"deny {denied}").denied_networks
    assert inside in networks
    assert outside not in networks


def test_a_name_is_the_rest_of_the_line(tmp_path):
    rules = load(tmp_path, "  listen\tALICE   Alice's  phone # since May\r\nconnect BOB b#1\n")
    assert rules.name_of(ALICE) == "Alice's phone"
    assert rules.name_of(BOB) == "b#1"
    assert rules.name_of(EVE) is None


def test_a_byte_order_mark_is_ignored(tmp_path):
    assert load(tmp_path, "\ufefflisten ALICE a\n").name_of(ALICE) == "a"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_ending_ends_a_rule(end, tmp_path):
    rules = load(tmp_path, f"listen ALICE a{end}connect BOB b{end}")
    assert (rules.may_listen(BOB), rules.may_connect(ALICE)) == (False, False)


@pytest.mark.parametrize("character", ["\f", "\x85", "\u2028"])
def test_a_comment_may_have_any_characters(character, tmp_path):
    # A page break or a line separator of Unicode, pasted from elsewhere.
    assert load(tmp_path, f"# one{character}two\nlisten ALICE a\n").may_listen(ALICE)


@pytest.mark.parametrize("character", ["\f", "\v", "\x85", "\u2028", "\u2029"])
def test_hidden_line_separator_in_a_rule_is_refused(character, tmp_path):
    with pytest.raises(FileError, match="line 1: it contains a page break or an unusual line separator"):
        load(tmp_path, f"listen ALICE a{character}deny BOB\n")
    assert load(tmp_path, f"{character}\nlisten ALICE a{character}\n").name_of(ALICE) == "a"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("allow ALICE a", "line 1: unknown word 'allow'; a line begins with listen, connect or deny"),
        ("\n\nlisten", "line 3: the key after listen is missing"),
        ("listen ALICE", "line 1: the name is missing; write listen KEY NAME"),
        ("listen short a", "line 1: the key has 5 characters; a 32-byte key has 43"),
        ("listen ALICE= a", "line 1: the key ends in '='; write it without padding"),
        ("deny ALICE eve", "line 1: unexpected 'eve' at the end; write it as a comment, after #"),
        ("deny eve", "line 1: 'eve' is neither a key nor an address; keys have 43 characters"),
        ("deny 192.0.2.1/24", "line 1: '192.0.2.1/24' has bits beyond its prefix; write 192.0.2.0/24"),
        (
            "deny 192.0.2.0/33",
            "line 1: '192.0.2.0/33' has no valid prefix length; write a number from 0 to 32",
        ),
        ("deny 1.2.3", "line 1: '1.2.3' is not an IP address"),
        ("deny ::ffff:1.2.3.4", "line 1: '::ffff:1.2.3.4' is not a plain IPv6 address"),
        ("listen ALICE a\nlisten ALICE b", "line 2: line 1 gives this key another name, 'a'"),
        ("listen ALICE a\x1b[1m", "line 1: the name has a control character"),
        ("listen ALICE " + "n" * 65, "line 1: the name has 65 characters; at most 64 are allowed"),
    ],
)
def test_a_mistake_has_its_line_and_reason(text, reason, tmp_path):
    assert mistake(tmp_path, text).startswith(reason)


def test_a_huge_file_is_refused(tmp_path):
    assert "too large" in mistake(tmp_path, "#" * (5 << 20))


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "access"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError):
        load_access(path)


def test_access_check_describes_the_rules(tmp_path, capsys):
    path = write(tmp_path / "access.txt", "listen ALICE a\ndeny ALICE\ndeny 192.0.2.0/24\n")
    assert stmgr.main(["access-check", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "listen: only 1 key",
        "connect: every key, except for those denied",
        "deny: 1 key, 1 address or network",
        f"note: {KEYS['ALICE'][:8]} (a) is allowed and denied; deny overrides",
    ]


def test_access_check_reports_a_mistake(tmp_path, capsys):
    path = write(tmp_path / "access.txt", "listen ALICE\n")
    assert stmgr.main(["access-check", str(path)]) == 1
    expected = f"stmgr: {path}: line 1: the name is missing; write listen KEY NAME\n"
    assert capsys.readouterr() == ("", expected)


def test_a_relay_does_not_start_with_a_mistake(tmp_path, capsys):
    path = write(tmp_path / "access.txt", "nonsense")
    done = run_strelay(capsys, "-i", FILES / "relay.ident", "-l", "127.0.0.1:0", "--access", path)
    assert done.status == 1
    assert f"strelay: {path}: line 1: unknown word 'nonsense'" in done.err


def test_sighup_reads_the_file_again(tmp_path, start_relay):
    path = write(tmp_path / "access.txt", "# nobody is denied\n")
    relay = start_relay("--access", str(path), "--workers", "2")
    write(path, "deny 127.0.0.0/8\n")
    os.kill(relay.pid, signal.SIGHUP)
    relay.wait_for_line("^reloaded: ")
    with socket.create_connection(("127.0.0.1", relay.port), timeout=60) as sock:
        assert sock.recv(1) == b""
    relay.stop_cleanly()


def test_the_documented_example_is_valid(tmp_path):
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    example = text.partition("# A private relay for three friends.")[2].partition("```")[0]
    assert sorted(load(tmp_path, example).listen.values()) == ["Alice's shop"]


@given(st.text(max_size=300) | st.binary(max_size=300))
def test_any_file_is_understood_or_refused_in_one_line(content):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "access"
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        with contextlib.suppress(FileError):
            assert isinstance(load_access(path), AccessRules)
