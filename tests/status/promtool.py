"""Prometheus's own checks of metrics, rules and configurations."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def run_promtool(*arguments: object, stdin: str = "") -> str:
    """Run promtool, and fail unless it accepts what it checks; return what it prints."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool, of Debian's package prometheus")
    words = [promtool, *map(str, arguments)]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
