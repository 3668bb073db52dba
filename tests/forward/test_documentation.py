"""The commands of docs/forwarding.md, as people use them: with each other, and with ssh."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys

import pytest

from tests.forward.programs import Setting, echo, exchange, port_of, reach, server
from tests.support.process import PATIENCE, ROOT
from tests.support.relay_process import LOCALHOST

PAGE = (ROOT / "docs" / "forwarding.md").read_text("utf-8")
COMMANDS = re.findall(r"^(?: {4}| {7})stforward ((?:share|to|list) .*)$", PAGE, re.MULTILINE)


def test_documented_commands_reach_the_server(setting: Setting) -> None:
    first, to_code, again, to_name = COMMANDS[:4]
    setting.let_in(setting.laptop)
    with server(echo) as target:
        replaced = {
            "relay.relay": str(setting.ticket_file),
            "22": str(target),
            "CODE": str(setting.code),
            "2222": "0",
        }

        def words(line: str) -> list[str]:
            return [replaced.get(word, word) for word in line.split()]

        for share, to in ((first, to_code), (again, to_name)):
            # The name that a machine gives itself is what the other one remembers.
            sharing = setting.start(setting.home, *words(share), "--name", "home")
            sharing.wait_for_line("^waiting for connections$")
            program = setting.start(setting.laptop, *words(to))
            program.wait_for_line("^connected to ")
            with reach(port_of(program)) as sock:
                assert exchange(sock, b"hello") == b"hello"
            assert program.stop() == sharing.stop() == 0


SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))


@pytest.mark.skipif(not (SSHD and shutil.which("ssh")), reason="needs ssh and sshd")
@pytest.mark.parametrize("way", ["port", "stdio"])
def test_ssh_works(setting: Setting, way: str) -> None:
    assert SSHD is not None
    directory = setting.path
    for name in ("host", "user"):
        key = str(directory / f"{name}_key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    config = directory / "sshd_config"
    config.write_text(
        f"HostKey {directory}/host_key\nAuthorizedKeysFile {directory}/user_key.pub\nStrictModes no\n"
        "UsePAM no\nPidFile none\nPasswordAuthentication no\n"
    )
    checked = subprocess.run([SSHD, "-t", "-f", str(config)], capture_output=True, text=True, check=False)
    if checked.returncode != 0:
        pytest.skip(f"sshd does not run here: {checked.stderr.strip()}")

    def answer(sock: socket.socket) -> None:
        """As inetd would: the connection is sshd's input and output."""
        sock.settimeout(None)
        subprocess.run(
            [str(SSHD), "-i", "-e", "-f", str(config)],
            stdin=sock.fileno(),
            stdout=sock.fileno(),
            stderr=subprocess.DEVNULL,
            check=False,
        )

    with server(answer) as target:
        sharing = setting.share(f"ssh={target}")
        options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
        if way == "port":
            where = ["-p", str(setting.reach("ssh=0")[1])]
        else:
            command = setting.laptop.command("to", str(setting.code), "ssh", "--stdio")
            where = ["-o", f"ProxyCommand={' '.join(command)}"]
        content = os.urandom(2_000_000)
        done = subprocess.run(
            ["ssh", "-F", "none", *where, "-i", str(directory / "user_key")]
            + [word for option in options for word in ("-o", option)]
            + [LOCALHOST, "cat; echo done"],
            input=content,
            capture_output=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        assert done.stdout == content + b"done\n", done.stderr
        # When ssh ends, it sends SIGHUP to its ProxyCommand.
        sharing.wait_for_line("^connection 1: (ended|cut off: stforward was stopped there) ")


@pytest.mark.slow
def test_comparison_prints_a_row_for_each_way() -> None:
    command = [sys.executable, "-m", "bench.forwarding", "--megabytes", "2", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    for way in ("direct", "stforward"):
        assert re.search(rf"^\| {way} \| \d+ MB/s ", done.stdout, re.MULTILINE)
    assert re.search(r"\d round trips\.$", done.stdout)
