"""Reading files within a bound, and writing them whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Callable, NoReturn

import pytest

from offset_common.errors import FileError
from offset_common.files import MAX_FILE_SIZE, Fields, read_file, write_new_file


def refusing(code: int) -> Callable[..., NoReturn]:
    def refuse(*_args: object, **_kwargs: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return refuse


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("private", [True, False])
def test_a_new_file_holds_the_text_and_nothing_is_left_beside_it(private, tmp_path):
    write_new_file(tmp_path / "a", "é\n", private=private)
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\n"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("private", "umask", "mode"), [(True, 0, 0o600), (False, 0o022, 0o644), (False, 0o077, 0o600)]
)
@pytest.mark.parametrize("links", [True, False])
def test_the_mode_is_for_the_owner_alone_or_what_the_umask_leaves(
    private, umask, mode, links, tmp_path, monkeypatch
):
    if not links:
        monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    before = os.umask(umask)
    try:
        write_new_file(tmp_path / "a", "x", private=private)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_a_private_file_is_never_readable_by_others_not_even_before_it_has_its_name(tmp_path, monkeypatch):
    modes = []
    monkeypatch.setattr(os, "fsync", lambda fd: modes.append(stat.S_IMODE(os.fstat(fd).st_mode)))
    before = os.umask(0)
    try:
        write_new_file(tmp_path / "a", "x", private=True)
    finally:
        os.umask(before)
    assert modes[0] == 0o600


def make_file(path: Path) -> None:
    path.write_text("mine")


def make_folder(path: Path) -> None:
    path.mkdir()


def make_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


def make_link_to_file(path: Path) -> None:
    (path.parent / "other").write_text("mine")
    path.symlink_to(path.parent / "other")


@pytest.mark.parametrize("make", [make_file, make_folder, make_link_to_nothing, make_link_to_file])
def test_whatever_exists_under_the_name_is_left_alone(make, tmp_path):
    make(tmp_path / "a")
    before = [(name, os.lstat(tmp_path / name)) for name in names(tmp_path)]
    with pytest.raises(FileError, match="exists already"):
        write_new_file(tmp_path / "a", "x", private=False)
    after = [(name, os.lstat(tmp_path / name)) for name in names(tmp_path)]
    assert [(name, status.st_mtime_ns, status.st_size) for name, status in before] == [
        (name, status.st_mtime_ns, status.st_size) for name, status in after
    ]


@pytest.mark.parametrize("code", [None, errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_that_appears_while_ours_is_written_is_left_alone(code, tmp_path, monkeypatch):
    real_link = os.link
    target = tmp_path / "a"

    def link(source, destination):
        target.write_text("theirs")
        if code:
            refusing(code)()
        real_link(source, destination)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(FileError, match="exists already"):
        write_new_file(target, "x", private=True)
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["a"]


def test_of_many_writers_of_one_name_exactly_one_succeeds(tmp_path):
    start = threading.Barrier(8)
    won = []

    def write(text: str) -> None:
        start.wait()
        try:
            write_new_file(tmp_path / "a", text, private=False)
        except FileError:
            return
        won.append(text)

    threads = [threading.Thread(target=write, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(tmp_path / "a").read_text()] == won
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES])
def test_without_hard_links_the_file_is_made_all_the_same(code, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refusing(code))
    write_new_file(tmp_path / "a", "x", private=True)
    assert (tmp_path / "a").read_text() == "x"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("where", ["fsync", "link"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_error_halfway_leaves_no_file_and_is_told_by_its_reason(where, code, tmp_path, monkeypatch):
    monkeypatch.setattr(os, where, refusing(code))
    with pytest.raises(FileError) as caught:
        write_new_file(tmp_path / "a", "x", private=True)
    assert str(caught.value) == f"{tmp_path / 'a'}: {os.strerror(code)}"
    assert names(tmp_path) == []


@pytest.mark.parametrize("where", ["fsync", "link"])
def test_an_interrupt_halfway_leaves_no_file(where, tmp_path, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, where, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_new_file(tmp_path / "a", "x", private=True)
    assert names(tmp_path) == []


def test_without_hard_links_a_failed_replacement_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    monkeypatch.setattr(Path, "replace", refusing(errno.EIO))
    with pytest.raises(FileError):
        write_new_file(tmp_path / "a", "x", private=True)
    assert names(tmp_path) == []


def test_a_process_killed_before_the_name_is_given_leaves_no_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_args: os._exit(9))
    child = os.fork()
    if child == 0:
        write_new_file(tmp_path / "a", "x", private=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert "a" not in names(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none/a", "there is no folder"),
        ("none/", "is the name of a folder, not of a file"),
        ("file/a", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("a\0b", "null (byte|character)"),
    ],
)
def test_a_name_that_no_file_can_have_is_refused(name, reason, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=reason):
        write_new_file(f"{tmp_path}/{name}", "x", private=False)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("work", [read_file, lambda path: write_new_file(path, "x", private=False)])
def test_an_empty_name_is_refused(work):
    with pytest.raises(FileError, match="'': is not the name of a file"):
        work("")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written_is_told_by_its_reason(code, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", refusing(code))
    with pytest.raises(FileError) as caught:
        write_new_file(tmp_path / "a", "x", private=False)
    assert str(caught.value) == f"{tmp_path / 'a'}: {os.strerror(code)}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{\xff}", "is not UTF-8 text (byte 1)"),
        (b" " * (MAX_FILE_SIZE + 1), "is over 65536 bytes, which no Offset file is"),
    ],
)
def test_what_no_offset_file_holds_is_not_read(content, reason, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(FileError) as caught:
        read_file(path)
    assert str(caught.value) == f"{path}: {reason}"


def test_a_file_of_the_largest_size_is_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b" " * MAX_FILE_SIZE)
    assert len(read_file(path)) == MAX_FILE_SIZE


def test_an_endless_file_is_refused_after_the_limit():
    with pytest.raises(FileError, match="is over 65536 bytes"):
        read_file("/dev/zero")


def test_a_pipe_is_read_to_its_end():
    reader, writer = os.pipe()

    def write() -> None:
        for piece in (b"one ", b"two ", b"three"):
            os.write(writer, piece)
        os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    assert read_file(f"/dev/fd/{reader}") == "one two three"
    thread.join()
    os.close(reader)


def test_a_folder_or_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(FileError) as caught:
        read_file(tmp_path)
    assert str(caught.value) == f"{tmp_path}: Is a directory"
    with pytest.raises(FileError) as caught:
        read_file(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path / 'none'}: No such file or directory"


def test_a_file_that_may_not_be_read_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(Path, "open", refusing(errno.EACCES))
    with pytest.raises(FileError, match="secret: Permission denied"):
        read_file("secret")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("\ufeff{}", "byte order mark"),
        ("hello", "is not JSON"),
        ("{", "is not JSON"),
        ("{} {}", "is not JSON"),
        ("{'a': 1}", "is not JSON"),
        ('{"a": NaN}', "is not JSON: NaN is not a value"),
        ('{"a": -Infinity}', "is not JSON: -Infinity is not a value"),
        ('{"a": 1, "a": 1}', "is not JSON: a key is in it twice"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON"),
        ("[" * 60000, "is nested too deeply"),
        ('{"a":' * 10000, "is nested too deeply"),
        ("[]", "holds a list, not a JSON object"),
        ('"a"', "holds a string, not a JSON object"),
        ("null", "holds null, not a JSON object"),
        ("1", "holds a number, not a JSON object"),
        ("true", "holds true or false, not a JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused_by_name_and_reason(text, reason):
    with pytest.raises(FileError, match=r"^the\.file: ") as caught:
        Fields.parse("the.file", text)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 200
