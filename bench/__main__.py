"""Measure what the relay costs, as a multiple of the least that the same bytes can cost.

Usage:
  bench [options] [GROUP...]
  bench -h | --help

Without a GROUP, all groups of rows are measured; --list names them.

  --quick         About a minute: fewer groups, shorter runs.
  --verify        Decrypt and check what the tunnels deliver; the figures are then rough.
  --list          List the groups and exit.
  --json FILE     Write the figures to FILE; - writes them to standard output instead of the table.
  --check         Exit with status 1 if a figure is more than twice its target.
  -h, --help      Show this help.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Optional

from bench.run import bench
from offset_common import __version__
from offset_common.command_line import parse, run


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the benchmark; return the exit status."""

    def work() -> int:
        arguments: dict[str, Any] = parse(__doc__, sys.argv[1:] if argv is None else argv, __version__)
        return bench(arguments)

    return run("bench", work)


if __name__ == "__main__":
    sys.exit(main())
