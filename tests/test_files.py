"""Files: reads have a size limit, writes are atomic and never overwrite."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from pathlib import Path
from typing import Callable, NoReturn

import pytest

from offset_common import files
from offset_common.errors import FileError
from offset_common.files import MAX_FILE_SIZE, read_file, write_new_file


def failing(code: int) -> Callable[..., NoReturn]:
    def fail(*_args: object, **_kwargs: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=[None, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES])
def link_error(request, monkeypatch):
    """Run a test with hard links, and with each error of a file system without them."""
    if request.param:
        monkeypatch.setattr(os, "link", failing(request.param))
    return request.param


@pytest.mark.usefixtures("link_error")
@pytest.mark.parametrize("content", ["é\n", b"\xc3\xa9\n"])
@pytest.mark.parametrize(
    ("private", "umask", "mode"), [(True, 0, 0o600), (False, 0o022, 0o644), (False, 0o077, 0o600)]
)
def test_a_new_file_has_its_content_and_mode(content, private, umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        write_new_file(tmp_path / "a", content, private=private)
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\n"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert names(tmp_path) == ["a"]


def test_a_private_file_is_private_from_the_start(tmp_path, monkeypatch):
    modes = []
    monkeypatch.setattr(os, "fsync", lambda fd: modes.append(stat.S_IMODE(os.fstat(fd).st_mode)))
    before = os.umask(0)
    try:
        write_new_file(tmp_path / "a", "x", private=True)
    finally:
        os.umask(before)
    assert modes[0] == 0o600


@pytest.mark.parametrize("kind", ["file", "directory", "link to a file", "dangling link"])
def test_nothing_is_ever_overwritten(kind, tmp_path):
    path = tmp_path / "a"
    (tmp_path / "other").write_text("mine")
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / ("other" if kind == "link to a file" else "nothing"))
    before = [(name, os.lstat(tmp_path / name).st_mtime_ns) for name in names(tmp_path)]
    with pytest.raises(FileError, match="the file already exists; choose another name or remove it first"):
        write_new_file(path, "x", private=False)
    assert [(name, os.lstat(tmp_path / name).st_mtime_ns) for name in names(tmp_path)] == before
    assert (tmp_path / "other").read_text() == "mine"


@pytest.mark.parametrize("code", [None, errno.EPERM])
def test_a_file_created_meanwhile_is_kept(code, tmp_path, monkeypatch):
    real_link = os.link
    target = tmp_path / "a"

    def link(source, destination):
        target.write_text("theirs")
        if code:
            failing(code)()
        real_link(source, destination)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(FileError, match="already exists"):
        write_new_file(target, "x", private=True)
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["a"]


def test_one_of_many_concurrent_writers_succeeds(tmp_path):
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


REASONS = {
    errno.EIO: "the device failed (input/output error); check the disk or the terminal",
    errno.ENOSPC: "the disk is full; free some space and try again",
    errno.EROFS: "the file system is read-only; choose another directory",
}


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("failures", [["fsync"], ["link", "replace"]])
def test_a_failed_write_leaves_no_file(failures, code, tmp_path, monkeypatch):
    for name in failures:
        monkeypatch.setattr(Path if name == "replace" else os, name, failing(code))
    with pytest.raises(FileError) as caught:
        write_new_file(tmp_path / "a", "x", private=True)
    assert caught.value.reason == REASONS[code]
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_is_written_without_fsync(number, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(number))
    write_new_file(tmp_path / "a", "content", private=True)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "content"


def test_a_file_is_created_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "link")  # Android has none
    write_new_file(tmp_path / "a", "content", private=True)
    assert names(tmp_path) == ["a"]
    with pytest.raises(FileError, match="already exists"):
        write_new_file(tmp_path / "a", "other", private=True)
    assert (tmp_path / "a").read_text() == "content"


@pytest.mark.parametrize("where", ["fsync", "link"])
def test_an_interrupted_write_leaves_no_file(where, tmp_path, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, where, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_new_file(tmp_path / "a", "x", private=True)
    assert names(tmp_path) == []


def test_a_killed_writer_leaves_no_file_of_that_name(tmp_path, monkeypatch):
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
        ("none/a", "the directory '.*' is missing; create it first"),
        ("none/", "this is a directory name; give a file name"),
        ("file/a", "a part of the path is a file, not a directory; check the path"),
        ("x" * 300, "the file name is too long; choose a shorter one"),
        ("a\0b", "null (byte|character)"),
    ],
)
def test_an_unusable_file_name_is_explained(name, reason, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=reason):
        write_new_file(f"{tmp_path}/{name}", "x", private=False)
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_a_directory_that_takes_no_files_is_not_called_missing():
    with pytest.raises(FileError, match="no file can be created in the directory '/proc'; choose another"):
        write_new_file("/proc/offset", "x", private=False)


def test_a_hyphen_is_not_taken_for_a_file_name(tmp_path, monkeypatch):
    # Many programs take it for standard output; a private key would be in a file that nobody notices.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileError, match=r"^-: only a file can be written, not standard output; give the name"
    ):
        write_new_file("-", "x", private=True)
    assert names(tmp_path) == []


@pytest.mark.parametrize("work", [read_file, lambda path: write_new_file(path, "x", private=False)])
def test_an_empty_file_name_is_rejected(work):
    with pytest.raises(FileError, match="'': the file name is empty"):
        work("")


def test_a_read_only_file_system_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", failing(errno.EROFS))
    with pytest.raises(FileError) as caught:
        write_new_file(tmp_path / "a", "x", private=False)
    assert str(caught.value) == f"{tmp_path / 'a'}: {REASONS[errno.EROFS]}"


@pytest.mark.parametrize("work", [read_file, lambda path: write_new_file(path, "x", private=False)])
def test_a_missing_permission_is_explained(work, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    with pytest.raises(FileError) as caught:
        work(tmp_path / "a")
    assert caught.value.reason == f"permission denied; you own {tmp_path}; allow it with chmod u+rwX"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{\xff}", "not UTF-8 text (byte 1); save it as UTF-8 in the editor"),
        (
            b" " * (MAX_FILE_SIZE + 1),
            "the file is over 65536 bytes, too large for an Offset file; check its name",
        ),
    ],
)
def test_oversized_and_non_utf_8_files_are_rejected(content, reason, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(FileError) as caught:
        read_file(path)
    assert str(caught.value) == f"{path}: {reason}"


@pytest.mark.parametrize("text", ["", "a", "a\ufeff\r\n"])
def test_a_byte_order_mark_is_not_part_of_the_text(text, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8"))
    assert read_file(path) == text


def test_the_size_limit_is_exact_and_holds_for_devices(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b" " * MAX_FILE_SIZE)
    assert len(read_file(path)) == MAX_FILE_SIZE
    with pytest.raises(FileError, match="the file is binary"):
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


def test_a_named_pipe_is_read_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "a")
    thread = threading.Thread(target=lambda: (tmp_path / "a").write_text("text"))
    thread.start()
    assert read_file(tmp_path / "a") == "text"
    thread.join()


def test_a_pipe_without_a_writer_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIPE_TIMEOUT", 0.01)
    os.mkfifo(tmp_path / "a")
    with pytest.raises(
        FileError, match=r"a pipe, and nothing was written to it for 0\.01 s; give a regular file"
    ):
        read_file(tmp_path / "a")


def test_a_socket_file_is_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("a.sock")
        with pytest.raises(FileError, match="a socket or a device that cannot be read; give a regular file"):
            read_file("a.sock")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".", "this is a directory; give the name of a file in it"),
        ("none", "there is no file with this name; check the name and the directory"),
    ],
)
def test_an_unreadable_file_is_reported(name, reason, tmp_path):
    with pytest.raises(FileError) as caught:
        read_file(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: {reason}"


@pytest.mark.parametrize("use", [read_file, lambda path: write_new_file(path, "x", private=False)])
def test_a_tilde_that_no_shell_replaced_is_explained(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError) as caught:
        use("~/relay.ident")
    expected = "only a shell replaces ~, and only at the start of a word; write the whole path"
    assert str(caught.value) == f"~/relay.ident: {expected}"
