#!/usr/bin/env python3
"""Make the illustrated page of a recorded run.

Usage:
  illustrate.py <recording> <page>

`examples/read_the_protocol.py --html PAGE --record RECORDING` makes a recording. An older page is replaced.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common import __version__
from offset_common.command_line import parse, run
from offset_common.illustrate.page import render
from offset_common.illustrate.recording import load_recording
from offset_common.illustrate.story import tell


def main() -> None:
    """Run the program."""
    values = parse(__doc__ or "", sys.argv[1:], __version__)
    page = render(tell(load_recording(values["<recording>"])))
    Path(values["<page>"]).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run("illustrate", main))
