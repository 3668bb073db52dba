"""Runs the relay with a fault planted in its code, or with another value of a constant.

    python -m tests.support.fault_injection MODULE:CLASS.METHOD PYTHON strelay.py OPTION...
    python -m tests.support.fault_injection MODULE:CLASS.METHOD@N PYTHON strelay.py OPTION...
    python -m tests.support.fault_injection MODULE:CONSTANT=NUMBER PYTHON strelay.py OPTION...

The method fails if one of its arguments concerns the victim, a peer with a known key, or from its Nth
call on. Several faults are separated by commas.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import sys
from typing import Any

import strelay
from tests.support.channel import KeyPair

VICTIM = KeyPair(b"the peer that meets planted bugs")
SEARCH_DEPTH = 4  # references from an argument to the victim's key


class PlantedError(Exception):
    """Nothing in the relay expects this."""


def inject(*faults: str) -> tuple[str, ...]:
    """Return the prefix that runs a relay with faults."""
    return (sys.executable, "-m", __spec__.name, ",".join(faults))


def concerns_victim(value: object, depth: int = SEARCH_DEPTH) -> bool:
    """Return whether a value is or refers to the victim's key."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return VICTIM.public_key in bytes(value)
    if not depth or not type(value).__module__.startswith("offset_common"):
        return False
    names = {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())}
    names.update(getattr(value, "__dict__", ()))
    return any(concerns_victim(getattr(value, name, None), depth - 1) for name in names)


def plant(place: str) -> None:
    """Make a method fail for the victim, or change a constant."""
    module_name, _, path = place.partition(":")
    path, _, number = path.partition("=")
    path, _, call = path.partition("@")
    owner: Any = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    if number:
        setattr(owner, name, float(number) if "." in number else int(number))
        return
    original = getattr(owner, name)
    calls = itertools.count(1)

    @functools.wraps(original)
    def failing(*arguments: Any, **others: Any) -> Any:
        concerned = next(calls) >= int(call) if call else any(map(concerns_victim, arguments))
        if concerned:
            raise PlantedError
        return original(*arguments, **others)

    static = isinstance(owner.__dict__.get(name), (staticmethod, classmethod))
    setattr(owner, name, staticmethod(failing) if static else failing)


if __name__ == "__main__":
    for fault in sys.argv[1].split(","):
        plant(fault)
    sys.exit(strelay.main(sys.argv[4:]))
