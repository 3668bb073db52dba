"""All targets, by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Callable, NamedTuple

from tests.fuzz import classify, forward, handshake, messages

CRASHES = Path(__file__).with_name("crashes")
"""Inputs that once failed, as crashes/TARGET/ANY-NAME; each is a regression test."""


class Target(NamedTuple):
    """Code that handles untrusted bytes.

    Args:
        run: handles an input; any exception is a bug.
        seeds: the first inputs.
        max_size: bytes of the largest input to try.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    max_size: int


TARGETS = {
    module.__name__.rpartition(".")[2]: Target(module.run, module.seeds, module.MAX_SIZE)
    for module in (messages, handshake, classify, forward)
}


def known_inputs(name: str) -> Iterator[bytes]:
    """Yield the seeds of a target, and the inputs that once failed."""
    yield from TARGETS[name].seeds()
    folder = CRASHES / name
    if folder.is_dir():
        yield from (path.read_bytes() for path in sorted(folder.iterdir()))
