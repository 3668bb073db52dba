"""Every command line in README.md, docs/ and the other documents is tested.

Commands that another test runs are listed with that test, and commands that cannot be tested with the
reason. An unknown command line in a document is a failure.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable

import pytest

import stforward
from offset_common.command_line import parse
from offset_common.commands.forward_ports import usage_for
from offset_common.forward.services import parse_places, parse_services
from offset_common.identity import Identity, save_identity
from offset_common.policy.usage import UsageFile
from offset_common.tickets import RelayTicket
from tests.documents import (
    BACKUP_COMMANDS,
    FAIL2BAN_COMMANDS,
    INSTALL_COMMANDS,
    OWNERS_COMMANDS,
    PROGRAM_COMMANDS,
    ROOT,
    ROTATION_COMMANDS,
    SECOND_UNIT_COMMANDS,
    TUTORIAL_COMMANDS,
    command_lines,
    environment,
    make_clone,
    make_files,
)
from tests.service.relays import SERVES, UpgradingRelay
from tests.support.process import free_port, ready_relay
from tests.support.relay_log import parse_ready, parse_state
from tests.support.relay_process import RelayProcess

PATIENCE = 120.0  # seconds for each command

STATUS_URL = "http://127.0.0.1:9090"
STATUS_TESTS = "tests/status/test_relay_status.py"
PAGES_TESTS = "tests/test_operators_pages.py"
FORWARD = "tests/forward/test_documentation.py"
ELSEWHERE = {
    **dict.fromkeys(OWNERS_COMMANDS, "tests/test_documentation.py::test_commands_by_hand_start_a_relay"),
    "python3 strelay.py --config relay.toml": (
        "tests/policy/test_config.py::test_the_documented_file_is_valid"
    ),
    "python3 strelay.py --config relay.toml --check": (
        "tests/policy/test_config.py::test_a_check_starts_and_creates_nothing"
    ),
    **dict.fromkeys(INSTALL_COMMANDS, "tests/test_deploy.py::test_documented_installation_starts_the_relay"),
    **dict.fromkeys(FAIL2BAN_COMMANDS, "tests/test_fail2ban.py::test_fail2ban_accepts_the_jail"),
    **dict.fromkeys(BACKUP_COMMANDS, f"{PAGES_TESTS}::test_usage_file_in_use_can_be_copied"),
    **dict.fromkeys(ROTATION_COMMANDS, f"{PAGES_TESTS}::test_identity_can_be_rotated_as_documented"),
    **dict.fromkeys(SECOND_UNIT_COMMANDS, f"{PAGES_TESTS}::test_second_unit_has_its_own_port_and_identity"),
    f"python3 stmgr.py relay-status {STATUS_URL}": f"{STATUS_TESTS}::test_command_shows_what_the_page_shows",
    f"python3 stmgr.py relay-status {STATUS_URL} --watch": f"{STATUS_TESTS}::test_watch_shows_rates",
    "python3 strelay.py --idfile relay/relay.ident --laddr 0.0.0.0:4567 --fleet valkey://10.0.0.9:6379/0"
    " --fleet-laddr 10.0.0.1:4568": "tests/fleet/test_fleet.py::test_documented_command_starts_a_host",
    **dict.fromkeys(
        ["pip install .", "pipx install .", "uv tool install ."],
        "tests/test_packaging.py::test_the_installed_commands_work",
    ),
    ".venv/bin/python -m bench.forwarding": f"{FORWARD}::test_comparison_prints_a_row_for_each_way",
    **dict.fromkeys(TUTORIAL_COMMANDS, "tests/test_tutorials.py::test_first_tutorial_works_as_written"),
    **dict.fromkeys(PROGRAM_COMMANDS, "tests/test_tutorials.py::test_programs_to_copy_work_as_documented"),
    **dict.fromkeys(("ssh -p 2222 localhost", "ssh home"), f"{FORWARD}::test_ssh_works"),
}
"""Commands that another test runs, with that test or the start of its name."""

NOT_RUN = {
    r"apt-get install [a-z0-9 -]+": "changes the system; .ci/run does it",
    r"apt-get install \./build/deb/\S+": "changes the system; tools/test-deb does it",
    r"podman (?:run|exec|cp|logs|stop)(?: .*)?": "needs podman; tools/test-image does it",
    r"GRAFANA_PASSWORD=secret podman compose .*": "needs images of other projects",
    r"podman compose -f deploy/fleet/compose\.yaml up": "needs images of other projects",
    r"stmgr relay-ticket --idfile /var/lib/.*": "needs the package; tools/test-deb does it",
    r"journalctl(?: -k| -[uop] [\w-]+)+": "needs systemd and the service",
    r"systemctl [a-zA-Z0-9. -]+": "needs systemd and the service",
    r"cp deploy/offset-relay\.socket /etc/systemd/system": "changes the system",
    r"ssh -L 9090:127\.0\.0\.1:9090 relay\.example\.com": "needs another machine",
    r"bash \.ci/run(?: check deb| PART)?": "runs this test",
    r'\.venv/bin/python -m pytest -x -m "not slow"': "runs this test",
}
"""Patterns of commands that are not tested, with the reason."""

MAKES = re.compile(r"--(?:output|qr-output|html|illustrate) ([^/\s]\S*)")
"""The file that a command makes, unless its name is absolute."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clone with the identity and ticket of a running relay."""
    directory = make_clone(tmp_path_factory.mktemp("clone"))
    (directory / "relay").mkdir()
    (directory / "access.txt").write_text("# everything is allowed\n")
    UsageFile(str(directory / "usage.db")).load("2026-11")
    save_identity(Identity.generate(), directory / "relay/relay.ident")
    relay = RelayProcess(directory / "relay/relay.ident")
    make_files(directory, relay.ticket, "check", "listener")
    try:
        yield directory
    finally:
        relay.kill()


def run(line: str, directory: Path) -> str:
    """Run a command line; return its output."""
    words = [sys.executable if re.fullmatch(r"(\S*/)?python3?", word) else word for word in shlex.split(line)]
    done = subprocess.run(
        words, cwd=directory, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_script(line: str, directory: Path) -> None:
    """Run stmgr.py or an example, with the relay's ticket in place of TICKET or FILE."""
    for name in MAKES.findall(line):
        (directory / name).unlink(missing_ok=True)
    assert run(re.sub(r"\b(TICKET|FILE)\b", "relay/relay.relay", line), directory).strip() or "output" in line


def start_relay(line: str, directory: Path) -> None:
    """Run strelay.py on a free port until it is ready, or check its --help or --version."""
    if "--help" in line or "--version" in line:
        assert run(line, directory).startswith("Run an Offset relay" if "--help" in line else "strelay 0.")
        return
    words = shlex.split(line)
    words[0] = sys.executable
    if "--laddr" not in words:
        words += ["--idfile", "relay/relay.ident", "--laddr", "0.0.0.0:4567"]
    words[words.index("--laddr") + 1] = "127.0.0.1:0"
    if "--status" in words:
        words[words.index("--status") + 1] = "127.0.0.1:0"
    with ready_relay(words, directory, environment()):
        pass


def start_small_relay(line: str, directory: Path) -> None:
    """Run the small relay on a free port until it is ready."""
    words = shlex.split(line.replace("0.0.0.0:4567", "127.0.0.1:0"))
    with subprocess.Popen(
        [sys.executable, *words[1:]], cwd=directory, env=environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            assert parse_ready(process.stderr.readline())
        finally:
            process.kill()


def check_comparison(line: str, _directory: Path) -> None:
    """Check that the comparison with the small relay has these options."""
    assert run(f"python {line.partition(' ')[2]} --list", ROOT).split()


def check_bench(line: str, _directory: Path) -> None:
    """Check that the benchmark has these options; a slow test below runs it."""
    page = ast.get_docstring(ast.parse((ROOT / "bench/__main__.py").read_text("utf-8")))
    assert page is not None
    parse(page, shlex.split(line.partition("-m bench")[2]), "1")


def check_help(line: str, _directory: Path) -> None:
    """Check that a program starts and has a help page."""
    assert "Usage:" in run(f"{line} --help", ROOT)


def check_make(line: str, directory: Path) -> None:
    """Check that the Makefile has these variables and documented targets."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for word in shlex.split(line):
        if word == "make":
            continue
        name, assigned, value = word.partition("=")
        if assigned:
            assert re.search(rf"^{name} \?=", makefile, re.MULTILINE), name
            if name == "BENCH":
                check_bench(f"-m bench {value}", directory)
        else:
            assert re.search(rf"^{name}:.* ## ", makefile, re.MULTILINE), name


def collect(line: str, _directory: Path) -> None:
    """Check that pytest finds the tests."""
    assert "::test_" in run(f"{line} --collect-only -p no:cacheprovider", ROOT)


def check_pip(line: str, _directory: Path) -> None:
    """Check that pyproject.toml defines the package and extra, or requires the package."""
    metadata = (ROOT / "pyproject.toml").read_text("utf-8")
    for word in shlex.split(line)[2:]:
        if word == "--editable":
            continue
        name, extra = re.fullmatch(r"([\w.-]+)(?:\[(\w+)\])?", word).groups()  # type: ignore[union-attr]
        assert f'"{name}"' in metadata or name == "."
        assert extra is None or re.search(rf"^{extra} = ", metadata, re.MULTILINE)


def check_subcommand(line: str, directory: Path) -> None:
    """Check that an installed script has this command."""
    run(f"python {line.split()[0]}.py {line.split()[1]} --help", directory)


def check_forward(line: str, _directory: Path) -> None:
    """Check that stforward has this command with these options; another test runs some."""
    words = shlex.split(line)[1:]
    arguments = parse(usage_for(stforward.__doc__ or "", words), words, "1")
    if arguments.get("share"):
        parse_services(arguments["<what>"])
    elif arguments.get("to") and not arguments["--stdio"]:
        parse_places(arguments["<where>"])


def request_state(line: str, directory: Path) -> None:
    """Send the signal to a relay from a shell, where `kill` is built in; expect the state in the log."""
    relay = RelayProcess(directory / "relay/relay.ident")
    try:
        run(f"sh -c '{line.replace('PID', str(relay.process.pid))}'", directory)
        relay.wait_for(lambda lines: any(map(parse_state, lines)), "the state")
    finally:
        relay.kill()


def request_upgrade(line: str, directory: Path) -> None:
    """Send the signal to a relay from a shell; expect a new process, and the end of the old one."""
    relay = UpgradingRelay(directory / "relay/relay.ident")
    try:
        run(f"sh -c '{line.replace('PID', str(relay.pid))}'", directory)
        assert relay.process.wait(PATIENCE) == 0
        relay.wait_for_line(SERVES)
    finally:
        relay.kill()


PYTHON = r"(?:python3|\.venv/bin/python)"
KINDS: dict[str, Callable[[str, Path], None]] = {
    # Not `python`: Debian has no such command.
    rf"{PYTHON} (?:stmgr\.py|examples/read_the_protocol\.py) .*": run_script,
    rf"{PYTHON} strelay\.py .*": start_relay,
    r"\.venv/bin/python examples/small_relay\.py .*": start_small_relay,
    r"\.venv/bin/python -m bench .*": check_bench,
    r"\.venv/bin/python -m bench\.fleet": check_help,
    r"\.venv/bin/python -m bench\.small_relay": check_comparison,
    r"\.venv/bin/python -m pytest tests/.*": collect,
    r"(?:[A-Z]+=\S+ )*make .*": check_make,
    r"\.venv/bin/pip install .*": check_pip,
    r"kill -USR1 PID": request_state,
    r"kill -USR2 PID": request_upgrade,
    r"stmgr [a-z-]+": check_subcommand,
    r"(?:\.venv/bin/)?stforward (?:share|to|list|key)\b.*": check_forward,
    r"python3 stforward\.py": check_help,
}
"""The test of each kind of command line, by pattern."""


@pytest.mark.parametrize("line", command_lines())
def test_a_documented_command_works(line: str, directory: Path) -> None:
    if line in ELSEWHERE:
        file, _, name = ELSEWHERE[line].partition("::")
        assert f"\ndef {name}" in (ROOT / file).read_text("utf-8")
        return
    if any(re.fullmatch(pattern, line) for pattern in NOT_RUN):
        return
    kinds = [kind for pattern, kind in KINDS.items() if re.fullmatch(pattern, line)]
    assert kinds, f"no test for {line!r}"
    kinds[0](line, directory)


def test_the_most_important_commands_are_found() -> None:
    """If the search for commands found nothing, the test above would pass."""
    lines = command_lines()
    for part in ("make run", "relay-check", "--qr", "show", "stforward share 22", "-m bench", "strelay.py -"):
        assert [line for line in lines if part in line], part


def test_files_that_commands_make_are_ignored_by_git() -> None:
    """Above all identities, which are private keys."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a clone")
    made = {name for line in command_lines() for name in MAKES.findall(line)}
    assert {"listener.ident", "run.html"} < made
    done = subprocess.run(
        ["git", "check-ignore", *made], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=PATIENCE
    )
    assert set(done.stdout.split()) == made


def printed_commands(text: str) -> Sequence[str]:
    """Return the commands that `make run` suggests."""
    return re.findall(r"^    (\S*python\S* stmgr\.py .*)$", text, re.MULTILINE)


def test_make_run_creates_files_and_suggests_commands(tmp_path: Path) -> None:
    here = make_clone(tmp_path)
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "tools/run.py"]
    variables = {**environment(), "ADDRESS": address, "LADDR": address}
    with ready_relay(command, here, variables) as (ready, process):
        assert ready.addresses == [address] and process.stdout is not None
        commands = printed_commands(os.read(process.stdout.fileno(), 1 << 16).decode())
        assert [line for line in commands if "relay-check relay/relay.relay" in line]
        assert [line for line in commands if "--qr" in line]
        for line in commands:
            assert run(line, here)
    assert str(RelayTicket.load(here / "relay/relay.relay").address) == address


@pytest.mark.slow
def test_benchmark_prints_and_saves_a_row(tmp_path: Path) -> None:
    pytest.importorskip("capnp")
    saved = tmp_path / "rows.json"
    assert "64B" in run(f"python -m bench --quick --json {saved} 64B", ROOT)
    assert [row["row"] for row in json.loads(saved.read_text("utf-8"))["rows"]] == ["64B"]
