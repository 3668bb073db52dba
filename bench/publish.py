"""Put the figures of a run, as `make bench` saves them, into docs/: as JSON, as a table and as a plot.

Usage: python -m bench.publish FIGURES.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.report import format_figures

DOCS = Path(__file__).resolve().parent.parent / "docs"
FIGURES = DOCS / "performance.json"
BEGIN, END = "<!-- figures: made by bench.publish -->\n", "<!-- end of figures -->\n"


def figures_as_markdown(run: dict[str, Any]) -> str:
    """Return a sentence about the machine and the day, and a table with a line for each row."""
    machine = run["machine"]
    versions = f"Python {machine['python']}, cryptography {machine['cryptography']}"
    lines = [
        f"One run of `make bench` on {run['date']}:",
        f"{machine['processor']}, {machine['cores']} cores, {versions}.",
        "",
        "| row | figures |",
        "|---|---|",
    ]
    for row in run["rows"]:
        lines.append(f"| {row['row']} | {'; '.join(format_figures(row))} |")
    return "\n".join(lines) + "\n"


def put_into_page(page: str, run: dict[str, Any]) -> str:
    """Return the page with the figures of a run between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{figures_as_markdown(run)}{END}{after}"


def main(source: Path) -> None:
    """Publish the figures of a file."""
    from bench.plot import draw  # needs matplotlib

    text = source.read_text()
    run = json.loads(text)
    page = DOCS / "performance.md"
    page.write_text(put_into_page(page.read_text("utf-8"), run), "utf-8")
    draw(run["rows"], DOCS / "performance.svg")
    FIGURES.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
