"""The wheel and the sdist are complete, and work in a new environment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from offset_common import __version__
from tests.support.relay_log import parse_ready

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 300.0  # seconds for an installation
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv*", "__pycache__", "*.egg-info", "build", "dist", ".*_cache", ".hypothesis", ".coverage*"
)


class Built(NamedTuple):
    """The results of the build."""

    wheel: Path
    sdist: Path


def run(*command: object, cwd: Path) -> str:
    """Run a command outside the project's environment; return its output."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def new_environment(directory: Path) -> Path:
    """Create an environment with only pip; return its bin directory."""
    venv.create(directory, with_pip=True)
    return directory / "bin"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A wheel and an sdist, built by pip and setuptools in a new environment from a copy of the source."""
    directory = tmp_path_factory.mktemp("build")
    source, output = directory / "source", directory / "dist"
    shutil.copytree(ROOT, source, ignore=lambda folder, names: {*NOT_SOURCE(folder, names), *_owners(folder)})
    commands = new_environment(directory / "environment")
    run(commands / "python", "-m", "pip", "install", "-q", "setuptools>=61", "wheel", cwd=directory)
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(output)!r})"
    output.mkdir()
    run(commands / "python", "-c", build, cwd=source)
    (sdist,) = output.glob("*.tar.gz")
    # From the sdist, like an installer without a matching wheel.
    run(commands / "python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", output, sdist, cwd=directory)
    (wheel,) = output.glob("*.whl")
    return Built(wheel, sdist)


def _owners(folder: str) -> set[str]:
    """Return the directory that `make run` creates, which is not part of the source."""
    return {"relay"} if Path(folder) == ROOT else set()


def test_the_wheel_has_only_the_package_and_scripts(built: Built) -> None:
    names = zipfile.ZipFile(built.wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert top == {"offset_common", "stmgr.py", "strelay.py", f"offset_relay-{__version__}.dist-info"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "offset_common").rglob("*.py")}
    assert modules | {"offset_common/py.typed", "offset_common/status/page.html"} <= set(names)


def test_the_installed_commands_work(built: Built, tmp_path: Path) -> None:
    commands = new_environment(tmp_path / "environment")
    run(commands / "python", "-m", "pip", "install", "-q", built.wheel, cwd=tmp_path)
    assert __version__ in run(commands / "strelay", "--version", cwd=tmp_path)
    assert __version__ in run(commands / "stmgr", "--version", cwd=tmp_path)
    run(commands / "stmgr", "gen-ident", "--output", "relay.ident", cwd=tmp_path)
    command = [str(commands / "strelay"), "--idfile", "relay.ident", "--laddr", "127.0.0.1:0"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as relay:
        try:
            assert relay.stderr is not None
            ready = relay.stderr.readline()
            relay.send_signal(signal.SIGTERM)
            assert relay.wait(20) == 0
        finally:
            relay.kill()
    parsed = parse_ready(ready)
    assert parsed is not None and parsed.addresses[0].startswith("127.0.0.1:")


def test_the_sdist_is_complete_enough_for_its_tests(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path)  # trusted: built by this test
    (source,) = tmp_path.iterdir()
    pytest_here = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    run(*pytest_here, "--collect-only", cwd=source)
    closing = run(*pytest_here, "tests/test_stmgr.py", "tests/channel/test_recorded.py", cwd=source)
    assert " passed" in closing
    assert (source / "docs/protocol.md").exists() and (source / ".ci/run").exists()
