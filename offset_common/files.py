"""Read and write files: reads have a size limit, writes are atomic and never overwrite.

The content of each kind of file is defined in identity.py and tickets.py, its JSON in fields.py.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Union

from offset_common.errors import FileError, missing_sentence, os_error_sentence
from offset_common.file_access import refusal
from offset_common.file_kinds import kind_of_bytes

AnyPath = Union[str, "os.PathLike[str]"]

MAX_FILE_SIZE = 2**16  # bytes; the largest real one is under 1 KiB
PIPE_TIMEOUT = 10.0  # seconds to wait until something is written to a pipe

# The errors of file systems that do not support fsync, such as some on the network or in user space.
_NO_FSYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY})

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o666  # before the umask


def read_file(path: AnyPath, limit: int = MAX_FILE_SIZE) -> str:
    """Return the content of a text file, without the byte order mark that Windows editors write.

    Args:
        path: a regular file, a pipe or a device.
        limit: its maximum size, in bytes.

    Raises:
        FileError: the file cannot be read, is over `limit` bytes or is not UTF-8.
    """
    name = _file_name(path)
    with open_file(name) as file:
        content = _read_bounded(file, limit)
    other_kind = kind_of_bytes(content)
    if other_kind is not None:
        raise FileError(name, other_kind)
    if len(content) > limit:
        reason = f"the file is over {limit} bytes, too large for an Offset file; check its name"
        raise FileError(name, reason)
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 text (byte {error.start}); save it as UTF-8 in the editor"
        raise FileError(name, reason) from error


@contextmanager
def open_file(path: AnyPath) -> Iterator[Any]:
    """Open a file to read bytes from it, unbuffered.

    Raises:
        FileError: the file cannot be read, also while it is open.
    """
    name = _file_name(path)
    try:
        if Path(name).is_dir():
            raise IsADirectoryError
        with _open_to_read(name) as file:
            yield file
    except IsADirectoryError as error:
        raise FileError(name, "this is a directory; give the name of a file in it") from error
    except FileNotFoundError as error:
        reason = "there is no file with this name; check the name and the directory"
        raise FileError(name, missing_sentence(name, reason)) from error
    except (OSError, ValueError) as error:
        raise FileError(name, _reason(name, error)) from error


def _open_to_read(name: str) -> Any:
    """Open a file unbuffered; if it is a named pipe, wait at most PIPE_TIMEOUT for a writer."""
    if not hasattr(os, "O_NONBLOCK"):
        return Path(name).open("rb", buffering=0)
    # Opening a pipe that has no writer would wait forever.
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode) and not _wait_for_writer(descriptor):
            silence = f"nothing was written to it for {PIPE_TIMEOUT:g} s"
            raise FileError(name, f"this is a pipe, and {silence}; give a regular file")
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def _wait_for_writer(descriptor: int) -> bool:
    """Wait until a pipe can be read; return False after PIPE_TIMEOUT."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(PIPE_TIMEOUT * 1000))


def _read_bounded(file: Any, limit: int) -> bytes:
    """Read to the end, or to one byte over the limit. A pipe may return less than requested."""
    content = bytearray()
    while len(content) <= limit:
        piece = file.read(limit + 1 - len(content))
        if not piece:
            break
        content += piece
    return bytes(content)


def write_new_file(path: AnyPath, content: Union[str, bytes], *, private: bool) -> None:
    """Write a new file atomically; never overwrite an existing one.

    A crash leaves either the complete file or no file with that name. On a file system without hard links,
    it can also leave an empty file.

    Args:
        path: a file that does not exist yet, in a directory that does.
        content: the whole content; a string is written as UTF-8.
        private: make the file readable by its owner only.

    Raises:
        FileError: the file exists or cannot be written.
    """
    name = _file_name(path)
    target = Path(name)
    temporary = target.parent / f".offset-{secrets.token_hex(8)}.tmp"
    try:
        if name == "-":
            raise FileError(
                name, "only a file can be written, not standard output; give the name of a new one"
            )
        if os.path.lexists(name):  # also true for a dangling symbolic link
            raise FileExistsError(errno.EEXIST, "")
        try:
            data = content.encode("utf-8") if isinstance(content, str) else content
            _write_durably(temporary, data, PRIVATE_MODE if private else PUBLIC_MODE)
            _publish(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink()
        _sync_directory(target.parent)
    except FileExistsError as error:
        raise FileError(name, "the file already exists; choose another name or remove it first") from error
    except FileNotFoundError as error:
        directory = repr(str(target.parent))
        reason = f"the directory {directory} is missing; create it first"
        if target.parent.is_dir():  # such as /proc
            reason = f"no file can be created in the directory {directory}; choose another one"
        raise FileError(name, missing_sentence(name, reason)) from error
    except (OSError, ValueError) as error:
        raise FileError(name, _reason(name, error)) from error


def _write_durably(path: Path, content: bytes, mode: int) -> None:
    # Without O_BINARY, Windows would change line endings.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        flush_to_disk(file.fileno())


def flush_to_disk(descriptor: int) -> None:
    """Wait until the content of a file is on the disk, if its file system supports that.

    Raises:
        OSError: the content could not be written.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


def _publish(temporary: Path, target: Path) -> None:
    """Give the finished file its final name atomically; fail if that name exists."""
    try:
        os.link(temporary, target)
        return
    except FileExistsError:
        raise
    except (OSError, AttributeError):
        pass  # some file systems have no hard links, and some systems, such as Android
    # Reserve the name with an empty file, then replace that file.
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE))
    try:
        temporary.replace(target)
    except BaseException:
        target.unlink()
        raise


def _sync_directory(directory: Path) -> None:
    """Flush the new directory entry to disk, if the system supports that."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _file_name(path: AnyPath) -> str:
    name = os.fspath(path)
    if not name:
        raise FileError("''", "the file name is empty")
    if name.endswith(os.sep):
        raise FileError(name, "this is a directory name; give a file name")
    return name


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"permission denied; {refusal(name)}"
    if isinstance(error, OSError):
        return os_error_sentence(error)
    return str(error)  # a null byte in the name is a ValueError
