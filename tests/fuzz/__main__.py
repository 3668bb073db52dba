"""The fuzz program.

    python -m tests.fuzz [--seconds N] [TARGET...]
    python -m tests.fuzz TARGET --input PATH

The first form fuzzes each target with atheris for an equal share of the time. Interesting inputs are kept in
fuzz-corpus/TARGET, failing ones in fuzz-corpus/found. The second form runs one target on a file, or on all
files of a directory, without atheris.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from tests.fuzz.targets import TARGETS, known_inputs

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "fuzz-corpus"
FOUND = CORPUS / "found"
SECONDS = 600
LONGEST_INPUT = 10  # seconds for one input
MEMORY = 2048  # MiB for the process
NO_ATHERIS = "Nothing is fuzzed: cannot import atheris, which has wheels for some versions of Python on Linux"


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the targets of the command line; return the exit status."""
    options = _parse(arguments)
    if options.input is not None:
        return _run_again(options.targets[0], options.input)
    if not _has_atheris():
        print(NO_ATHERIS)
        return 0
    share = max(1, options.seconds // len(options.targets))
    print(f"{len(options.targets)} targets, {share} s each")
    results = [_fuzz(name, share) for name in options.targets]
    return 0 if all(results) else 1


def _parse(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzz the decoders of untrusted bytes."
    )
    parser.add_argument(
        "targets", metavar="TARGET", nargs="*", help=f"one of {', '.join(TARGETS)}; all by default"
    )
    parser.add_argument("--seconds", type=int, default=SECONDS, help="total time, 600 by default")
    parser.add_argument(
        "--input", type=Path, metavar="PATH", help="run TARGET only on this file or directory"
    )
    options = parser.parse_args(arguments)
    for name in options.targets:
        if name not in TARGETS:
            parser.error(f"no such target: {name!r}; choose from {', '.join(TARGETS)}")
    if options.input is not None and len(options.targets) != 1:
        parser.error("--input needs one TARGET")
    options.targets = options.targets or list(TARGETS)
    return options


def _has_atheris() -> bool:
    try:
        return importlib.util.find_spec("atheris") is not None
    except ValueError:  # a test blocks the import
        return False


def _run_again(name: str, path: Path) -> int:
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    for each in paths:
        TARGETS[name].run(each.read_bytes())
    print(f"{name}: no failure; inputs: {len(paths)}")
    return 0


def _write_seeds(name: str) -> Path:
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for data in known_inputs(name):
        (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)
    return folder


def _fuzz(name: str, seconds: int) -> bool:
    """Fuzz one target, and print the result; return whether it found no failure."""
    FOUND.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "tests.fuzz.campaign", name),
        *(f"-max_total_time={seconds}", f"-timeout={LONGEST_INPUT}", f"-rss_limit_mb={MEMORY}"),
        *("-print_final_stats=1", f"-artifact_prefix={FOUND}/{name}-", str(_write_seeds(name))),
    ]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    print(_summary(name, done.stdout), flush=True)
    if done.returncode == 0:
        return True
    print(done.stdout[-5000:])
    for saved in re.findall(r"Test unit written to (\S+)", done.stdout):
        shown = Path(saved).relative_to(ROOT)
        print(f"Run it again:  python -m tests.fuzz {name} --input {shown}")
        print(f"Make it a test: cp {shown} tests/fuzz/crashes/{name}/")
    return False


def _summary(name: str, output: str) -> str:
    def last(pattern: str) -> str:
        found: list[str] = re.findall(pattern, output)
        return found[-1] if found else "?"

    return (
        f"{name:<10} {last(r'number_of_executed_units: *([0-9]+)'):>9} runs, "
        f"{last(r'average_exec_per_sec: *([0-9]+)'):>6} a second, "
        f"{last(r'cov: ([0-9]+)')} edges, {last(r'corp: ([0-9]+)')} inputs kept"
    )


if __name__ == "__main__":
    sys.exit(main())
