"""The JSON files of Offset: read whole within a bound, written whole or not at all.

What each file holds is in identity.py and tickets.py.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Union

from offset_common.errors import FileError

AnyPath = Union[str, "os.PathLike[str]"]

MAX_FILE_SIZE = 2**16  # bytes; the largest real one is under 1 KiB

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o666  # less what the umask takes away

# What systems answer when the file system, or a policy of theirs, has no hard links.
_NO_HARD_LINKS = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.ENOSYS,
        errno.ENOTSUP,
        errno.EOPNOTSUPP,
        errno.EMLINK,
        errno.EXDEV,
        errno.EINVAL,
    }
)


def read_file(path: AnyPath) -> str:
    """Read a whole text file.

    Args:
        path: a regular file, a pipe or a device.

    Raises:
        FileError: it cannot be read, is over MAX_FILE_SIZE bytes or is not UTF-8.
    """
    name = _file_name(path)
    try:
        with Path(name).open("rb", buffering=0) as file:
            content = _read_bounded(file)
    except (OSError, ValueError) as error:
        raise FileError(name, _reason(error)) from error
    if len(content) > MAX_FILE_SIZE:
        raise FileError(name, f"is over {MAX_FILE_SIZE} bytes, which no Offset file is")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(name, f"is not UTF-8 text (byte {error.start})") from error


def _read_bounded(file: Any) -> bytes:
    """Read to the end, or one byte over the limit: a pipe gives its content in pieces."""
    content = bytearray()
    while len(content) <= MAX_FILE_SIZE:
        piece = file.read(MAX_FILE_SIZE + 1 - len(content))
        if not piece:
            break
        content += piece
    return bytes(content)


def write_new_file(path: AnyPath, text: str, *, private: bool) -> None:
    """Make a file with this text; one that exists is left alone.

    A crash at any moment leaves the whole file or none of that name.

    Args:
        path: a file that does not exist yet, in a folder that does.
        text: the whole content, written as UTF-8.
        private: only the owner may read it.

    Raises:
        FileError: it exists, or cannot be written.
    """
    name = _file_name(path)
    target = Path(name)
    temporary = target.parent / f".offset-{secrets.token_hex(8)}.tmp"
    try:
        if os.path.lexists(name):  # a dangling link is in the way as well
            raise FileExistsError(errno.EEXIST, "")
        try:
            _write_durably(temporary, text.encode("utf-8"), PRIVATE_MODE if private else PUBLIC_MODE)
            _publish(temporary, target)
        finally:
            with suppress(OSError):
                temporary.unlink()
        _sync_folder(target.parent)
    except FileExistsError as error:
        raise FileError(name, "exists already, and no file is ever overwritten") from error
    except FileNotFoundError as error:
        raise FileError(name, f"there is no folder {str(target.parent)!r} to put it in") from error
    except (OSError, ValueError) as error:
        raise FileError(name, _reason(error)) from error


def _write_durably(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _publish(temporary: Path, target: Path) -> None:
    """Give the finished file its name, in one step that fails if the name is taken."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _claim_and_replace(temporary, target)


def _claim_and_replace(temporary: Path, target: Path) -> None:
    """Without hard links: take the name with an empty file, then replace that file by the finished one."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE))
    try:
        temporary.replace(target)
    except BaseException:
        target.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    """Make the new name durable, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _file_name(path: AnyPath) -> str:
    name = os.fspath(path)
    if not name:
        raise FileError("''", "is not the name of a file")
    if name.endswith(os.sep):
        raise FileError(name, "is the name of a folder, not of a file")
    return name


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)  # a zero byte in the name is a ValueError


def json_text(values: Mapping[str, object]) -> str:
    """Write the values as the original programs do: two-space indent, no newline at the end.

    Source: docs/protocol.md section 8.
    """
    return json.dumps(values, indent=2, ensure_ascii=False)


class Fields:
    """The fields of one JSON object, and where it was read, so that an error can name it.

    Source: docs/protocol.md section 8: extra keys are ignored, missing ones are an error.
    """

    def __init__(self, source: object, values: dict[str, Any]) -> None:
        self.source = source
        self._values = values

    @classmethod
    def parse(cls, source: object, text: str) -> Fields:
        """Read a JSON object.

        Args:
            source: what an error names: the path of the file, or words.
            text: the JSON.

        Raises:
            FileError: it is not one JSON object, or has a key twice.
        """
        if not text.strip():
            raise FileError(source, "is empty")
        if text.startswith("\ufeff"):
            raise FileError(source, "starts with a byte order mark, which JSON must not")
        try:
            values = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
        except RecursionError as error:
            raise FileError(source, "is not an Offset file: it is nested too deeply") from error
        except ValueError as error:
            raise FileError(source, f"is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise FileError(source, f"holds {_kind(values)}, not a JSON object")
        return cls(source, values)

    def text(self, name: str) -> str:
        """The string with this name; FileError if there is none."""
        value: str = self._value(name, str)
        return value

    def flag(self, name: str) -> bool:
        """The true or false with this name; FileError if there is none."""
        value: bool = self._value(name, bool)
        return value

    def object(self, name: str) -> Fields:
        """The object with this name; FileError if there is none."""
        return Fields(self.source, self._value(name, dict))

    def expect_empty(self, name: str, kind: type) -> None:
        """Check that the list or object with this name is there, with nothing in it."""
        if self._value(name, kind):
            raise self.error(f'"{name}" is not empty')

    def error(self, reason: str) -> FileError:
        """An error in this object, to be raised by whoever reads it."""
        return FileError(self.source, reason)

    def _value(self, name: str, kind: type) -> Any:
        if name not in self._values:
            raise self.error(f'has no "{name}"')
        value = self._values[name]
        if type(value) is not kind:
            raise self.error(f'"{name}" is {_kind(value)}, not {_KINDS[kind]}')
        return value


_KINDS = {
    str: "a string",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _kind(value: object) -> str:
    return _KINDS[type(value)]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is there twice: which of the two another program would take is anyone's guess."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key is in it twice")
    return values


def _no_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python's reader takes and JSON does not have."""
    raise ValueError(f"{name} is not a value")
