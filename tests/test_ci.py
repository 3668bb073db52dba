"""The workflow of the public host runs parts of .ci/run, on every Python that the package supports."""

from __future__ import annotations

import os
import re
import subprocess

from tests.support.process import PATIENCE, ROOT

RUN = (ROOT / ".ci/run").read_text("utf-8")
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
METADATA = (ROOT / "pyproject.toml").read_text("utf-8")


def parts_of_ci() -> set[str]:
    """Return the parts that .ci/run accepts."""
    found = re.search(r"^    ([a-z |]+)\) \"\$part\"", RUN, re.MULTILINE)
    assert found is not None
    return set(found[1].split(" | "))


def test_every_part_of_ci_is_a_job() -> None:
    (matrix,) = re.findall(r"part: \[(.*)\]", WORKFLOW)
    named = set(re.findall(r"\.ci/run ([a-z]+)$", WORKFLOW, re.MULTILINE))
    assert {*matrix.split(", "), *named} == parts_of_ci()


def test_every_supported_python_is_tested() -> None:
    (matrix,) = re.findall(r"python: \[(.*)\]", WORKFLOW)
    tested = re.findall(r'"(3\.\d+)"', matrix)
    assert tested == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', METADATA)
    assert f'requires-python = ">={tested[0]}"' in METADATA


def test_unknown_part_of_ci_is_reported_in_one_line() -> None:
    done = subprocess.run(
        ["bash", ".ci/run", "tset"],
        cwd=ROOT,
        env={**os.environ, "LC_ALL": "C"},  # bash warns about a locale that this machine lacks
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"\.ci/run: no part tset; use [a-z, ]+\n", done.stderr)
