"""The wheel and the sdist are complete, pass the checks of an index, and work however they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path
from typing import Callable, NamedTuple

import pytest

from offset_common import __version__
from tests.support.process import ready_relay

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


def run(*command: object, cwd: Path, **variables: object) -> str:
    """Run a command outside the project's environment; return its output."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**clean, **{name: str(value) for name, value in variables.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An sdist, built from a copy of the source, and a wheel, built from the sdist."""
    pytest.importorskip("build")
    faster = ["--installer", "uv"] if find_spec("uv") else []
    directory = tmp_path_factory.mktemp("build")
    source, output = directory / "source", directory / "dist"
    shutil.copytree(ROOT, source, ignore=lambda folder, names: {*NOT_SOURCE(folder, names), *_owners(folder)})
    run(sys.executable, "-m", "build", *faster, "--outdir", output, source, cwd=directory)
    (sdist,) = output.glob("*.tar.gz")
    (wheel,) = output.glob("*.whl")
    return Built(wheel, sdist)


def _owners(folder: str) -> set[str]:
    """Return the directory that `make run` creates, which is not part of the source."""
    return {"relay"} if Path(folder) == ROOT else set()


def metadata(wheel: Path) -> Message:
    """Return the metadata in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode("utf-8"))


def test_the_wheel_has_only_the_package_and_scripts(built: Built) -> None:
    names = zipfile.ZipFile(built.wheel).namelist()
    top = {name.split("/")[0] for name in names}
    scripts = {path.name for path in ROOT.glob("st*.py")}
    assert top == {"offset_common", *scripts, f"offset_relay-{__version__}.dist-info"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "offset_common").rglob("*.py")}
    data = {"py.typed", "status/page.html", "illustrate/page.html"}
    assert modules | {f"offset_common/{name}" for name in data} <= set(names)


def test_wheel_and_sdist_have_the_license(built: Built) -> None:
    information = metadata(built.wheel)
    assert information["License-Expression"] == "MIT"
    assert information.get_all("License-File") == ["LICENSE"]
    licence = (ROOT / "LICENSE").read_bytes()
    wheel_name = f"offset_relay-{__version__}.dist-info/licenses/LICENSE"
    assert zipfile.ZipFile(built.wheel).read(wheel_name) == licence
    with tarfile.open(built.sdist) as archive:
        member = archive.extractfile(f"offset_relay-{__version__}/LICENSE")
        assert member is not None and member.read() == licence


@pytest.mark.parametrize("checker", [["twine", "check", "--strict"], ["check_wheel_contents"]], ids=str)
def test_an_index_would_accept_the_files(built: Built, checker: list[str]) -> None:
    pytest.importorskip(checker[0])
    files = [built.wheel] if checker[0] == "check_wheel_contents" else list(built)
    run(sys.executable, "-m", *checker, *files, cwd=ROOT)


def install_with_pip(wheel: Path, directory: Path) -> Path:
    """Install the wheel into a new environment; return the directory of its commands."""
    environment = directory / "environment"
    venv.create(environment)
    run(sys.executable, "-m", "pip", "--python", environment, "install", "-q", wheel, cwd=directory)
    return environment / "bin"


def install_with_pipx(wheel: Path, directory: Path) -> Path:
    """Install the wheel as pipx does; return the directory of its commands."""
    pytest.importorskip("pipx")
    commands = directory / "bin"
    places = {"PIPX_HOME": directory / "pipx", "PIPX_BIN_DIR": commands, "PIPX_MAN_DIR": directory / "man"}
    run(sys.executable, "-m", "pipx", "install", wheel, cwd=directory, **places)
    return commands


def install_with_uv(wheel: Path, directory: Path) -> Path:
    """Install the wheel as a tool of uv; return the directory of its commands."""
    pytest.importorskip("uv")
    commands = directory / "bin"
    places = {"UV_TOOL_DIR": directory / "tools", "UV_TOOL_BIN_DIR": commands}
    run(
        *(sys.executable, "-m", "uv", "tool", "install", "--no-config", "--python", sys.executable, wheel),
        cwd=directory,
        UV_CACHE_DIR=directory / "cache",
        **places,
    )
    return commands


@pytest.mark.parametrize("install", [install_with_pip, install_with_pipx, install_with_uv])
def test_the_installed_commands_work(
    built: Built, tmp_path: Path, install: Callable[[Path, Path], Path]
) -> None:
    commands = install(built.wheel, tmp_path)
    for name in (path.stem for path in ROOT.glob("st*.py")):
        assert __version__ in run(commands / name, "--version", cwd=tmp_path)
    run(commands / "stmgr", "gen-ident", "--output", "relay.ident", cwd=tmp_path)
    command = [str(commands / "strelay"), "--idfile", "relay.ident", "--laddr", "127.0.0.1:0"]
    with ready_relay(command, tmp_path) as (ready, _):
        assert ready.addresses[0].startswith("127.0.0.1:")


def test_the_sdist_is_complete_enough_for_its_tests(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path)  # trusted: built by this test
    (source,) = tmp_path.iterdir()
    pytest_here = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    run(*pytest_here, "--collect-only", cwd=source)
    closing = run(*pytest_here, "tests/test_stmgr.py", "tests/channel/test_recorded.py", cwd=source)
    assert " passed" in closing
    assert (source / "docs/protocol.md").exists() and (source / ".ci/run").exists()
