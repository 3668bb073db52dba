"""The files in ~/.config/offset that people read and edit."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional

import pytest

from offset_common.address import Address
from offset_common.errors import FileError, ServiceError, UsageError
from offset_common.forward.code import Code
from offset_common.forward.config_directory import IDENTITY, ConfigDirectory, only_share
from offset_common.forward.known_codes import KnownCodes
from offset_common.forward.peers import Peer, Peers, Rule
from offset_common.identity import encode_key
from offset_common.tickets import RelayTicket

KEYS = [bytes([number]) * 32 for number in range(40)]
CODES = [Code(RelayTicket(key, Address("relay.example.com", 4567)), key) for key in KEYS]


@pytest.fixture
def directory(tmp_path: Path) -> ConfigDirectory:
    return ConfigDirectory(tmp_path / "config" / "offset")


def write(directory: ConfigDirectory, name: str, text: str) -> None:
    directory.create()
    (directory.path / name).write_text(text)


def test_identity_is_made_once_and_private(directory: ConfigDirectory) -> None:
    first = directory.identity()
    assert directory.identity().public_key == first.public_key
    assert stat.S_IMODE((directory.path / IDENTITY).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700


def test_processes_that_start_together_get_one_identity(directory: ConfigDirectory) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: directory.identity().public_key, range(8)))
    assert len(set(keys)) == 1


@pytest.mark.parametrize("made", ["a file", "a link to nowhere"])
def test_unusable_directory_is_explained(directory: ConfigDirectory, made: str) -> None:
    if made == "a file":
        directory.path.parent.mkdir()
        directory.path.touch()
    else:
        directory.path.parent.symlink_to("/nowhere")
    with pytest.raises(FileError, match="set XDG_CONFIG_HOME to a directory"):
        directory.create()


def test_an_identity_on_nfs_is_locked(directory: ConfigDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[int] = []

    def flock_of_nfs(descriptor: int, operation: int) -> None:
        # "place an exclusive lock: fd must be open for writing" (flock(2), NFS details)
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        if locked:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        locked.append(descriptor)

    monkeypatch.setattr("fcntl.flock", flock_of_nfs)
    directory.identity()
    with only_share(directory.path / IDENTITY):
        assert locked
        with pytest.raises(ServiceError, match="shares with"), only_share(directory.path / IDENTITY):
            pytest.fail("it was locked twice")


def test_a_file_system_without_locks_will_do(
    directory: ConfigDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_lock)
    directory.identity()
    with only_share(directory.path / IDENTITY), directory.changing("peers"):
        directory.write("peers", "")


def test_a_file_system_without_modes_will_do(
    directory: ConfigDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_mode(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    for name in ("chmod", "fchmod"):
        monkeypatch.setattr(f"os.{name}", no_mode)
    directory.write("peers", "hello")
    assert directory.read("peers") == "hello"
    assert stat.S_IMODE((directory.path / "peers").stat().st_mode) == 0o600


def test_xdg_config_home_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/elsewhere")
    assert ConfigDirectory.of_user().path == Path("/elsewhere/offset")
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert ConfigDirectory.of_user().path == Path("/home/alice/.config/offset")


def test_last_relay_is_remembered(directory: ConfigDirectory) -> None:
    with pytest.raises(UsageError, match="no relay is known yet"):
        directory.relay()
    for code in CODES[:2]:
        directory.remember_relay(code.relay)
        assert directory.relay() == code.relay


def test_edited_peers_are_read(directory: ConfigDirectory) -> None:
    text = f"# people\n\n  allow {encode_key(KEYS[1])} laptop\ndeny {encode_key(KEYS[2])}\n"
    write(directory, "peers", text)
    peers = Peers(directory)
    assert peers.load() == [Peer(Rule.ALLOW, KEYS[1], "laptop"), Peer(Rule.DENY, KEYS[2], "")]
    assert peers.find(KEYS[3]) is None


def test_added_peer_keeps_what_a_user_wrote(directory: ConfigDirectory) -> None:
    before = f"# mine\nallow {encode_key(KEYS[1])} laptop"  # without a newline at the end
    write(directory, "peers", before)
    Peers(directory).add(Rule.ALLOW, KEYS[2], "phone")
    assert (directory.path / "peers").read_text() == f"{before}\nallow {encode_key(KEYS[2])} phone\n"


def test_peers_added_at_the_same_time_are_all_kept(directory: ConfigDirectory) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: Peers(directory).add(Rule.ALLOW, key, ""), KEYS))
    assert {peer.public_key for peer in Peers(directory).load()} == set(KEYS)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("permit x", "it begins with 'permit'; write allow or deny"),
        ("allow", "it has no key"),
        ("allow abc", "the key has 3 characters"),
        (f"allow {encode_key(KEYS[1])} my laptop", "its name is invalid"),
        (f"allow {encode_key(KEYS[1])} \x1b[31m", "its name is invalid"),
    ],
)
def test_invalid_line_of_peers_is_reported(directory: ConfigDirectory, line: str, reason: str) -> None:
    write(directory, "peers", f"# first\n{line}\n")
    with pytest.raises(FileError, match=f"peers: line 2: {reason}"):
        Peers(directory).load()


def test_names_of_codes_are_unique(directory: ConfigDirectory) -> None:
    known = KnownCodes(directory)
    assert [known.add(code, "home") for code in CODES[:3]] == ["home", "home-2", "home-3"]
    assert known.add(CODES[1], "home") == "home-2"
    assert known.find("home-3") == CODES[2]
    assert known.find(str(CODES[9])) == CODES[9]


def test_code_may_have_several_names(directory: ConfigDirectory) -> None:
    known = KnownCodes(directory)
    assert [known.add(CODES[0], name) for name in ("home", "other", "other")] == ["home", "other", "other"]
    assert known.find("home") == known.find("other") == CODES[0]
    assert len(known.load()) == 2


def test_unknown_name_suggests_a_known_one(directory: ConfigDirectory) -> None:
    KnownCodes(directory).add(CODES[0], "home")
    with pytest.raises(UsageError, match=r"no machine is known as 'hom'; did you mean home\?"):
        KnownCodes(directory).find("hom")


def test_line_with_no_code_says_so(directory: ConfigDirectory) -> None:
    write(directory, "codes", "home garbage\n")
    with pytest.raises(FileError, match="codes: line 1: 'garbage' is not a code"):
        KnownCodes(directory).load()


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_invalid_home_counts_as_none(home: Optional[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert ConfigDirectory.of_user().path == Path(pwd.getpwuid(os.getuid()).pw_dir, ".config", "offset")


@pytest.mark.parametrize("line", ["home", "home of1abc", "a b c", f"bad/name {CODES[0]}"])
def test_invalid_line_of_codes_is_reported(directory: ConfigDirectory, line: str) -> None:
    write(directory, "codes", line)
    with pytest.raises(FileError, match="codes: line 1: "):
        KnownCodes(directory).load()


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"\0" * 10, b"x" * 2_000_000], ids=["utf-16", "zeros", "long"]
)
def test_file_that_is_not_text_is_one_clear_error(directory: ConfigDirectory, content: bytes) -> None:
    directory.create()
    (directory.path / "peers").write_bytes(content)
    with pytest.raises(FileError):
        Peers(directory).load()
