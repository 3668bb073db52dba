"""Fuzz one target. It needs a separate process, because libFuzzer exits when its time is over.

python -m tests.fuzz.campaign TARGET LIBFUZZER-ARGUMENT...
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["offset_common"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer's limits are reached, or an input fails."""
    program, name, *arguments = sys.argv
    target = TARGETS[name]
    atheris.Setup([program, f"-max_len={target.max_size}", *arguments], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
