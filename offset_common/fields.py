"""The JSON of Offset files: read and check the fields of an object, write them as the original programs do.

Source: docs/protocol.md section 8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn, Optional, TypeVar

from offset_common.errors import FileError
from offset_common.file_kinds import FileKind, advice_for, kind_of_fields, kind_of_text

Value = TypeVar("Value")

_ADVICE = "copy the file again, or make a new one"


def json_text(values: Mapping[str, object]) -> str:
    """Return the values as JSON in the format of the original programs: two-space indent, no final newline.

    Source: docs/protocol.md section 8.
    """
    return json.dumps(values, indent=2, ensure_ascii=False)


class Fields:
    """The fields of one JSON object and the name of its source, for error messages.

    Source: docs/protocol.md section 8: extra keys are ignored, missing keys are an error.

    Args:
        source: the path of the file, or another name for error messages.
        values: the object.
        wanted: the kind of file that the object should be; None for an object inside a file.
    """

    def __init__(self, source: object, values: dict[str, Any], wanted: Optional[FileKind] = None) -> None:
        self.source = source
        self._values = values
        self._wanted = wanted

    @classmethod
    def parse(cls, source: object, text: str, wanted: Optional[FileKind] = None) -> Fields:
        """Parse a JSON object.

        Args:
            source: the path of the file, or another name for error messages.
            text: the JSON.
            wanted: the kind of file that it should be, if that is known.

        Raises:
            FileError: the text is not a JSON object, or has a duplicate key.
        """
        if not text.strip():
            raise FileError(source, f"the file is empty; {_ADVICE}")
        try:
            values = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
        except RecursionError as error:
            raise FileError(
                source, "not an Offset file: its JSON is nested too deeply; check its name"
            ) from error
        except ValueError as error:
            raise FileError(source, kind_of_text(text) or f"not valid JSON: {error}; {_ADVICE}") from error
        if not isinstance(values, dict):
            raise FileError(source, f"the file contains {_kind(values)}, not a JSON object; check its name")
        return cls(source, values, wanted)

    def kind(self) -> Optional[FileKind]:
        """Return the kind of file that has these fields, or None if there is no such kind."""
        return kind_of_fields(self._values)

    def get(self, name: str, kind: type[Value]) -> Value:
        """Return a field; raise FileError if it is missing or has the wrong type."""
        if name not in self._values:
            raise self.error(self._other_kind() or f'the field "{name}" is missing; {_ADVICE}')
        value = self._values[name]
        if type(value) is not kind:
            raise self.error(f'"{name}" is {_kind(value)}, not {_KINDS[kind]}; {_ADVICE}')
        return value

    def object(self, name: str) -> Fields:
        """Return an object field; raise FileError if it is missing or has the wrong type."""
        return Fields(self.source, self.get(name, dict))

    def expect_empty(self, name: str, kind: type) -> None:
        """Raise FileError unless the field is an empty list or object, as `kind` says."""
        if self.get(name, kind):
            raise self.error(f'"{name}" is not empty')

    def error(self, reason: str) -> FileError:
        """Return a FileError that names the source of this object."""
        return FileError(self.source, reason)

    def _other_kind(self) -> str:
        """Return what other kind of file this is and what to do, or an empty string if it is unknown."""
        found = self.kind()
        if found is None or self._wanted in (None, found):
            return ""
        return f"the file is {found.value}, not {self._wanted.value}; {advice_for(self._wanted, found)}"


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
    """Reject duplicate keys: programs disagree about which of the values counts."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("it has a duplicate key")
    return values


def _no_constant(name: str) -> NoReturn:
    """Reject NaN and Infinity, which Python accepts but JSON does not have."""
    raise ValueError(f"{name} is not a JSON value")
