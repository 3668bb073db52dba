"""Values on a command line: read numbers, and name the option in every error."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from offset_common.errors import ServiceError, UsageError, quote


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Prefix errors about an option's value with its name; errors about a file already name the file."""
    try:
        yield
    except (UsageError, ServiceError) as error:
        raise type(error)(f"{option}: {error}") from None


def read_number(option: str, text: str, least: float, most: float, unit: str) -> float:
    """Return the number given for an option.

    Args:
        option: its name, for the error message.
        text: the value on the command line, without a unit.
        least: the smallest valid number.
        most: the largest valid number.
        unit: the unit of the number: "seconds", "MiB" or "KiB".

    Raises:
        UsageError: the value is not a number, or out of range.
    """
    try:
        number = float(text) if re.fullmatch(r"[0-9.eE+-]+", text) else math.nan
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        hint = _in_unit(text, unit, least, most)
        limits = f"from {_plain(least)} to {_plain(most)}"
        raise UsageError(f"{option} must be a number of {unit} {limits}, not {quote(text)}{hint}")
    return number


def read_count(option: str, text: str, most: int) -> int:
    """Return the whole number, 1 or more, given for an option.

    Raises:
        UsageError: the value is not a whole number, or out of range.
    """
    # Python refuses to parse thousands of digits, with a different exception.
    count = int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else 0
    if not 1 <= count <= most:
        hint = _in_unit(text, "", 1, most)
        raise UsageError(f"{option} must be a whole number from 1 to {most}, not {quote(text)}{hint}")
    return count


def read_size(option: str, text: str, least: int, most: int) -> int:
    """Return the number of bytes given for an option, such as 1500000, 1500k or 1.5M.

    Args:
        option: its name, for the error message.
        text: a number; a suffix k, M, G or T multiplies it by a power of 1000.
        least: the smallest valid number of bytes.
        most: the largest valid number of bytes.

    Raises:
        UsageError: the value is not a number of bytes, or out of range.
    """
    found = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,9})?)([kKmMgGtT]?)", text)
    size = round(float(found[1]) * 1000 ** " kmgt".index(found[2].lower() or " ")) if found else -1
    if not least <= size <= most:
        raise UsageError(
            f"{option} must be a number of bytes from {least} to {most}, such as 500k, 1.5M or 2G,"
            f" not {quote(text)}"
        )
    return size


def read_choice(option: str, text: str, choices: Iterable[str]) -> str:
    """Return the word given for an option.

    Raises:
        UsageError: the value is not one of the choices.
    """
    if text not in choices:
        raise UsageError(f"{option} must be {' or '.join(choices)}, not {quote(text)}")
    return text


_MAX_DIGITS = 20
_BYTES = {name + end: 1024**power for power, name in enumerate("kmgt", 1) for end in ("", "b", "ib")}
_SECONDS = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_UNITS: dict[str, dict[str, float]] = {
    "KiB": {name: size / 1024 for name, size in _BYTES.items()},
    "MiB": {name: size / 1024**2 for name, size in _BYTES.items()},
    "seconds": _SECONDS,
    "": {"k": 1000, "m": 1_000_000},
}


def _in_unit(text: str, unit: str, least: float, most: float) -> str:
    """Return "; for 1g write 1024", or an empty string if the text is not a number with a known unit."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([A-Za-z]{1,3})", text)
    factor = _UNITS[unit].get(found.group(2).lower()) if found else None
    if not found or factor is None:
        return ""
    number = float(found.group(1)) * factor
    return f"; for {text} write {_plain(number)}" if least <= number <= most else ""


def _plain(number: float) -> str:
    """Return a number as people write it: 1048576 and 0.1, not 1.04858e+06 or 1.0."""
    return str(int(number)) if number == int(number) else f"{number:g}"
