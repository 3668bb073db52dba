"""Read and write files: reads have a size limit, writes are atomic and never overwrite.

The content of each kind of file is defined in identity.py and tickets.py.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar, Union

from offset_common.errors import FileError

AnyPath = Union[str, "os.PathLike[str]"]
Value = TypeVar("Value")

MAX_FILE_SIZE = 2**16  # bytes; the largest real one is under 1 KiB

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o666  # before the umask


def read_file(path: AnyPath) -> str:
    """Return the content of a text file.

    Args:
        path: a regular file, a pipe or a device.

    Raises:
        FileError: the file cannot be read, is over MAX_FILE_SIZE bytes or is not UTF-8.
    """
    name = _file_name(path)
    try:
        with Path(name).open("rb", buffering=0) as file:
            content = _read_bounded(file)
    except (OSError, ValueError) as error:
        raise FileError(name, _reason(error)) from error
    if len(content) > MAX_FILE_SIZE:
        raise FileError(name, f"the file is over {MAX_FILE_SIZE} bytes, too large for an Offset file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(name, f"not UTF-8 text (byte {error.start})") from error


def _read_bounded(file: Any) -> bytes:
    """Read to the end, or to one byte over the limit. A pipe may return less than was asked for."""
    content = bytearray()
    while len(content) <= MAX_FILE_SIZE:
        piece = file.read(MAX_FILE_SIZE + 1 - len(content))
        if not piece:
            break
        content += piece
    return bytes(content)


def write_new_file(path: AnyPath, content: Union[str, bytes], *, private: bool) -> None:
    """Write a new file atomically; never overwrite an existing one.

    A crash leaves either the complete file or no file of that name. Only on a file system without hard
    links, it can leave an empty file.

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
        raise FileError(name, f"the directory {str(target.parent)!r} is missing; create it first") from error
    except (OSError, ValueError) as error:
        raise FileError(name, _reason(error)) from error


def _write_durably(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _publish(temporary: Path, target: Path) -> None:
    """Give the finished file its final name atomically; fail if that name exists."""
    try:
        os.link(temporary, target)
        return
    except FileExistsError:
        raise
    except OSError:
        pass  # the file system has no hard links
    # Reserve the name with an empty file, then replace that file.
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE))
    try:
        temporary.replace(target)
    except BaseException:
        target.unlink()
        raise


def _sync_directory(directory: Path) -> None:
    """Flush the new directory entry to disk, where the system supports it."""
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


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{error.strerror}; run as the owner or change the mode with chmod"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)  # a null byte in the name is a ValueError


def json_text(values: Mapping[str, object]) -> str:
    """Return the values as JSON in the format of the original programs: two-space indent, no final newline.

    Source: docs/protocol.md section 8.
    """
    return json.dumps(values, indent=2, ensure_ascii=False)


class Fields:
    """The fields of one JSON object and the name of its source, for error messages.

    Source: docs/protocol.md section 8: extra keys are ignored, missing ones are an error.
    """

    def __init__(self, source: object, values: dict[str, Any]) -> None:
        self.source = source
        self._values = values

    @classmethod
    def parse(cls, source: object, text: str) -> Fields:
        """Parse a JSON object.

        Args:
            source: the path of the file, or another name for error messages.
            text: the JSON.

        Raises:
            FileError: the text is not a JSON object, or has a duplicate key.
        """
        if not text.strip():
            raise FileError(source, "the file is empty")
        if text.startswith("\ufeff"):
            raise FileError(source, "the file starts with a byte order mark; save it without one")
        try:
            values = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
        except RecursionError as error:
            raise FileError(source, "not an Offset file: its JSON is nested too deeply") from error
        except ValueError as error:
            raise FileError(source, f"not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise FileError(source, f"the file contains {_kind(values)}, not a JSON object")
        return cls(source, values)

    def get(self, name: str, kind: type[Value]) -> Value:
        """Return a field; raise FileError if it is missing or of another type."""
        if name not in self._values:
            raise self.error(f'the field "{name}" is missing')
        value = self._values[name]
        if type(value) is not kind:
            raise self.error(f'"{name}" is {_kind(value)}, not {_KINDS[kind]}')
        return value

    def object(self, name: str) -> Fields:
        """Return an object field; raise FileError if it is missing or of another type."""
        return Fields(self.source, self.get(name, dict))

    def expect_empty(self, name: str, kind: type) -> None:
        """Raise FileError unless the field is an empty list or object, as `kind` says."""
        if self.get(name, kind):
            raise self.error(f'"{name}" is not empty')

    def error(self, reason: str) -> FileError:
        """Return a FileError that names the source of this object."""
        return FileError(self.source, reason)


_KINDS = {
    str: "a string",
    bool: "a boolean",
    dict: "an object",
    list: "a list",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _kind(value: object) -> str:
    return _KINDS[type(value)]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Reject duplicate keys: programs disagree on which of the two values counts."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("it has a duplicate key")
    return values


def _no_constant(name: str) -> NoReturn:
    """Reject NaN and Infinity, which Python accepts but JSON does not have."""
    raise ValueError(f"{name} is not a JSON value")
