"""The units of deploy/ and the Debian package are valid and hardened, and always restart the relay."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from offset_common.identity import Identity, encode_key, save_identity
from tests.documents import INSTALL_COMMANDS, UNIT, environment, make_clone
from tests.support.process import PATIENCE, ROOT, ready_relay
from tests.support.relay_process import command, write_identity

SOCKET_UNIT = UNIT.with_suffix(".socket")
EXPOSURE = 20  # tenths, up to 100: the maximum that `systemd-analyze security` may report


def settings(name: str, unit: Path = UNIT) -> list[str]:
    """Return the values of a setting in a unit."""
    return re.findall(rf"^{name}=(.*)$", unit.read_text("utf-8"), re.MULTILINE)


@pytest.fixture(params=["deploy", "debian"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit in deploy/, and that of the Debian package, which is made from it."""
    if request.param == "deploy":
        return UNIT
    unit = packaged(tmp_path)
    # The package is not installed here.
    unit.write_text(unit.read_text("utf-8").replace("/usr/bin/strelay", "/usr/bin/python3"), "utf-8")
    return unit


def packaged(directory: Path) -> Path:
    """Make the unit of the Debian package as debian/rules does; return its path."""
    unit = directory / UNIT.name
    done = subprocess.run(
        ["sed", "-f", "debian/unit.sed", str(UNIT)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    unit.write_text(done.stdout, "utf-8")
    return unit


def analyze(*arguments: str, units: Sequence[Path] = (UNIT,)) -> None:
    """Run systemd-analyze on units; fail unless it succeeds and prints no warning on standard error."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("needs systemd-analyze")
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.split()[1]) < 250:
        pytest.skip("needs systemd 250 for --offline")
    line = [tool, *arguments, *map(str, units)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_systemd_accepts_the_unit(unit: Path) -> None:
    analyze("verify", units=[unit])


def test_systemd_accepts_the_socket_unit() -> None:
    analyze("verify", units=[UNIT, SOCKET_UNIT])


def test_socket_unit_passes_one_listening_socket_to_the_relay() -> None:
    text = SOCKET_UNIT.read_text("utf-8")
    assert re.findall(r"^Listen\w+=(.*)$", text, re.MULTILINE) == [
        re.findall(r"--laddr (\S+)", settings("ExecStart")[0])[0]
    ]
    assert not re.search(r"^Accept=yes", text, re.MULTILINE)


def test_unit_gives_the_event_loop_time_for_watchdog_messages() -> None:
    assert settings("Type") == ["notify"]
    assert settings("NotifyAccess") == ["main"]
    assert settings("ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert 10 <= int(settings("WatchdogSec")[0]) <= 60


def test_unit_is_hardened(unit: Path) -> None:
    analyze("security", "--offline=true", f"--threshold={EXPOSURE}", units=[unit])


def test_unit_leaves_no_core_file_with_the_private_key() -> None:
    assert settings("LimitCORE") == ["0"]


def test_configuration_of_the_package_starts_the_relay(tmp_path: Path) -> None:
    (start,) = settings("ExecStart", packaged(tmp_path))
    words = start.split()
    assert words[:2] == ["/usr/bin/strelay", "--config"]
    configuration = tmp_path / "relay.toml"
    text = (ROOT / "debian/relay.toml").read_text("utf-8").replace("0.0.0.0:4567", "127.0.0.1:0")
    # Turn on every option that its comments suggest: each must exist.
    text = re.sub(r"^# ([a-z-]+ = )", r"\1", text, flags=re.MULTILINE).replace(
        "/etc/offset-relay", str(tmp_path)
    )
    text = text.replace("/var/lib/offset-relay/usage", str(tmp_path)).replace('"9090"', '"127.0.0.1:0"')
    configuration.write_text(text, "utf-8")
    (tmp_path / "access.txt").write_text("# everything is allowed\n")
    arguments = [sys.executable, "strelay.py", "--config", str(configuration)]
    with ready_relay([*arguments, "--idfile", write_identity(tmp_path)]):
        pass


def test_relay_is_started_again_without_a_limit() -> None:
    assert settings("Restart") == ["on-failure"]
    assert settings("StartLimitIntervalSec") == ["0"]
    assert 1 <= int(settings("RestartSec")[0]) <= 60


@pytest.mark.parametrize(
    ("options", "again"),
    [
        (["--laddr", "192.0.2.77:4567"], True),  # an address that this host does not have, or not yet
        (["--laddr", "127.0.0.1"], False),
        (["--laddr", "127.0.0.1:0", "--no-such-option"], False),
    ],
    ids=["address not here", "wrong address", "wrong option"],
)
def test_only_failures_that_may_pass_are_retried(tmp_path: Path, options: list[str], again: bool) -> None:
    start = command(write_identity(tmp_path), "")[:-2]
    done = subprocess.run([*start, *options], cwd=ROOT, capture_output=True, timeout=PATIENCE)
    assert done.returncode != 0
    final = settings("RestartPreventExitStatus")[0].split()
    assert (str(done.returncode) not in final) == again


def test_documented_installation_starts_the_relay(tmp_path: Path) -> None:
    clone, host = tmp_path / "clone", tmp_path / "host"
    clone.mkdir()
    make_clone(clone)
    (clone / "relay").mkdir()
    identity = Identity.generate()
    save_identity(identity, clone / "relay/relay.ident")
    (host / "etc/systemd/system").mkdir(parents=True)
    for line in INSTALL_COMMANDS:
        here = re.sub(r" /(opt|etc)/", rf" {host}/\1/", line)
        subprocess.run(shlex.split(here), cwd=clone, check=True, timeout=PATIENCE)
    assert (host / "etc/systemd/system" / UNIT.name).read_text("utf-8") == UNIT.read_text("utf-8")
    (credential,) = settings("LoadCredential")
    name, _, source = credential.partition(":")
    (start,) = settings("ExecStart")
    words = shlex.split(start.replace("/opt/", f"{host}/opt/").replace("0.0.0.0:4567", "127.0.0.1:0"))
    words = [word.replace(f"${{CREDENTIALS_DIRECTORY}}/{name}", f"{host}{source}") for word in words]
    assert words[0] == "/usr/bin/python3"
    words[0] = sys.executable
    with ready_relay(words, Path("/"), environment()) as (ready, _):
        assert ready.public_key == encode_key(identity.public_key)
