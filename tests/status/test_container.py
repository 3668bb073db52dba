"""The image and compose.yaml: what can be tested without building an image, which tools/test-image does."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from offset_common.wire.messages import InitRole
from tests.status.promtool import run_promtool
from tests.status.relays import RelayWithStatus
from tests.support.node import Node
from tests.support.process import PATIENCE, ROOT, free_port, wait_until
from tests.support.relay_process import LOCALHOST


def health(status: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the health check of the image.

    Args:
        status: the address of the relay's status, as the container's environment has it.
        variables: more of that environment.
    """
    return subprocess.run(
        [sys.executable, str(ROOT / "container/healthy")],
        env={**os.environ, "STATUS": status, **variables},
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("host", ["", f"{LOCALHOST}:", "0.0.0.0:", "[::]:"])
def test_health_check_finds_the_relay(relay: RelayWithStatus, host: str) -> None:
    assert health(f"{host}{relay.status_port}").returncode == 0


def test_health_check_does_not_restart_a_full_relay(tmp_path: Path) -> None:
    full = RelayWithStatus(tmp_path, "--connections", "4", "--per-address", "4", "--per-key", "4")
    with contextlib.ExitStack() as nodes:
        nodes.callback(full.kill)
        for _ in range(4):  # listeners stay for longer than a connection without a role
            nodes.enter_context(Node(full.endpoint())).open().init(InitRole.LISTEN)
        wait_until(lambda: full.get("/healthz").status == 503, "503")
        assert health(f"{LOCALHOST}:{full.status_port}").returncode == 0
        assert full.get("/healthz").status == 503


def test_health_check_uses_no_proxy(relay: RelayWithStatus) -> None:
    # Docker gives containers the proxy of its configuration; NO_PROXY need not have this address.
    proxy = f"http://{LOCALHOST}:{free_port()}"
    assert health(f"{LOCALHOST}:{relay.status_port}", http_proxy=proxy, no_proxy="").returncode == 0


def test_health_check_reports_another_server_in_one_line(relay: RelayWithStatus) -> None:
    done = health(f"{LOCALHOST}:{relay.port}")
    assert done.returncode == 1
    assert re.fullmatch(r"no answer: [^\n]+\n", done.stderr)


def test_health_check_reports_a_missing_answer_in_one_line() -> None:
    done = health(f"{LOCALHOST}:{free_port()}")
    assert done.returncode == 1
    assert re.fullmatch(r"no answer: [^\n]+\n", done.stderr)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run as another user")
@pytest.mark.parametrize(
    ("mode", "with_identity", "named"), [(0o755, False, ""), (0o700, True, ""), (0o755, True, "/relay.ident")]
)
def test_volume_of_another_user_is_explained(mode: int, with_identity: bool, named: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        volume = Path(name, "ident")
        Path(name).chmod(0o755)
        volume.mkdir(mode)
        if with_identity:
            (volume / "relay.ident").touch(0o600)
        program = (ROOT / "container/relay").read_text("utf-8").replace("=/ident", f"={volume}")
        done = subprocess.run(
            ["sh", "-c", program],
            user=10001,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(
            f"relay: user 10001 of this container has no access to {volume}{named}; "
        )
        assert "chown -R 10001 DIRECTORY" in done.stderr


def test_files_that_compose_mounts_exist() -> None:
    mounted = re.findall(r"^ +- \./(\S+?):/", (ROOT / "compose.yaml").read_text("utf-8"), re.MULTILINE)
    assert len(mounted) >= 4
    assert [name for name in mounted if not (ROOT / name).exists()] == []


def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    for name in ("deploy/compose/prometheus.yml", "deploy/prometheus/alerts.yml"):
        shutil.copy(ROOT / name, tmp_path)
    run_promtool("check", "config", tmp_path / "prometheus.yml")


def test_image_of_a_private_clone_is_readable(tmp_path: Path) -> None:
    # With the umask 077, all files of a clone are private, and so are their copies in the image.
    program, commands = tmp_path / "program", tmp_path / "commands"
    for source, target in (("offset_common/wire", program / "offset_common"), ("container", commands)):
        shutil.copytree(ROOT / source, target)
    for script in ROOT.glob("st*.py"):
        shutil.copy(script, program)
    for path in (program, *program.rglob("*"), commands, *commands.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)
    (run,) = re.findall(
        r"^RUN (chmod (?:.*\\\n)*.*)$", (ROOT / "Containerfile").read_text("utf-8"), re.MULTILINE
    )
    run = run.replace("/opt/offset-relay", str(program)).replace("/usr/local/bin", str(commands))
    subprocess.run(["bash", "-c", f"umask 077; {run.replace('python3', sys.executable)}"], check=True)
    copied = [path for path in (*program.rglob("*"), *commands.rglob("*")) if "__pycache__" not in path.parts]
    assert [path for path in copied if not path.stat().st_mode & stat.S_IROTH] == []
    assert [path for path in commands.iterdir() if not path.stat().st_mode & stat.S_IXOTH] == []


def test_image_gets_only_what_it_needs() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split("\n")
    assert "*" in ignored
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Containerfile").read_text("utf-8"), re.MULTILINE)
    sources = {source.split("/")[0] for line in copied for source in line.split()}
    assert {line[1:] for line in ignored if line.startswith("!")} == sources
