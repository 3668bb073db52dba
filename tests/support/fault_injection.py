"""Runs the relay with another constant, a method that fails from its Nth call on, or another clock.

    python -m tests.support.fault_injection MODULE:CONSTANT=NUMBER PYTHON strelay.py OPTION...
    python -m tests.support.fault_injection MODULE:CLASS.METHOD@N PYTHON strelay.py OPTION...
    python -m tests.support.fault_injection MODULE:FUNCTION+NUMBER PYTHON strelay.py OPTION...

Several changes are separated by commas.
"""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from typing import Any

import strelay


class PlantedError(Exception):
    """Nothing in the relay expects this."""


def inject(*faults: str) -> tuple[str, ...]:
    """Return the prefix that runs a relay with faults."""
    return (sys.executable, "-m", __spec__.name, ",".join(faults))


def plant(fault: str) -> None:
    """Change a constant, make a method fail, or add to what a function returns."""
    module_name, _, place = fault.partition(":")
    path, sign, value = re.split("([=@+])", place)
    owner: Any = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    if sign == "=":
        setattr(owner, name, float(value) if "." in value else int(value))
        return
    original, calls = getattr(owner, name), itertools.count(1)
    if sign == "+":
        setattr(owner, name, lambda: original() + float(value))
        return

    def failing(*arguments: Any) -> Any:
        if next(calls) >= int(value):
            raise PlantedError
        return original(*arguments)

    setattr(owner, name, failing)


if __name__ == "__main__":
    for fault in sys.argv[1].split(","):
        plant(fault)
    sys.exit(strelay.main(sys.argv[4:]))
