"""Write the man pages and the completions of all scripts: `python3 -m tools.manual DIRECTORY`."""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from offset_common import __version__
from tools.completions import bash_completion, zsh_completion
from tools.help_pages import read_page, scripts
from tools.man_pages import man_page


def main(directory: Path) -> None:
    """Write DIRECTORY/man/NAME.1, DIRECTORY/bash/NAME and DIRECTORY/zsh/_NAME for each script.

    Args:
        directory: made if it is missing.
    """
    epoch = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    date = datetime.fromtimestamp(epoch, timezone.utc)
    names = scripts()
    for name in names:
        page = read_page(name)
        others = [other for other in names if other != name]
        _write(directory / "man" / f"{name}.1", man_page(name, page, others, __version__, date))
        _write(directory / "bash" / name, bash_completion(name, page))
        _write(directory / "zsh" / f"_{name}", zsh_completion(name, page))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 -m tools.manual DIRECTORY")
    main(Path(sys.argv[1]))
