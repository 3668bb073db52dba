"""Measures what the relay costs, beside what the same bytes cost at the least.

Usage:
  bench [options] [--only ROW]...
  bench -h | --help

  --quick                     Under a minute: fewer rows, shorter runs.
  --verify                    Decrypt and check what comes out of the tunnels; the figures are rough then.
  --only ROW                  Measure this row (may be given several times); --list names them.
  --list                      Name the rows, and end.
  --json FILE                 Write the figures to FILE; - is the standard output, without the table.
  --picture FILE              Draw the figures, beside what is promised and what the original needed, as SVG.
  --check                     End with status 1 if a figure is worse than twice what is promised.
  -h, --help                  Show this page.
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
