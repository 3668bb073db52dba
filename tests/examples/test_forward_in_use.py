"""examples/forward.py as people use it: the commands of README.md, and ssh."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.programs import PATIENCE, Setting, echo, exchange, port_of, reach, server
from tests.support.process import ROOT
from tests.support.relay_process import LOCALHOST

README = (ROOT / "README.md").read_text("utf-8")
README_COMMANDS = re.findall(
    r"^ +python3 ((?:stmgr|examples/forward)\.py .*(?:home|laptop)\.ident.*)$", README, re.M
)


def test_readme_commands_reach_the_server(setting: Setting, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "relay").mkdir(parents=True)
    setting.ticket.save(here / "relay/relay.relay")
    (here / "stmgr.py").symlink_to(ROOT / "stmgr.py")
    (here / "examples").symlink_to(ROOT / "examples")
    assert len(README_COMMANDS) == 6
    keys = {}
    for line in README_COMMANDS:
        script, command, *options = line.split()
        if command in ("gen-ident", "key"):
            made = subprocess.run(
                [sys.executable, script, command, *options],
                cwd=here,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            if command == "key":
                keys["KEY_OF_" + options[-1].partition(".")[0].upper()] = made.stdout.strip()
    with server(echo) as target:
        other = {"127.0.0.1:22": f"{LOCALHOST}:{target}", "2222": "0"} | keys
        for line in README_COMMANDS:
            script, command, *options = (other.get(word, word) for word in line.split())
            if command in ("serve", "dial"):
                ready = setting.run(command, *options, directory=here).wait_for_line("^forward ready: ")
        with reach(port_of(ready)) as sock:
            assert exchange(sock, b"hello") == b"hello"


SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))


@pytest.mark.skipif(not (SSHD and shutil.which("ssh")), reason="needs ssh and sshd")
def test_ssh_works(setting: Setting) -> None:
    assert SSHD is not None
    directory = setting.directory
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
        port = setting.both(target)
        options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null")
        content = os.urandom(2_000_000)
        done = subprocess.run(
            ["ssh", "-F", "none", "-p", str(port), "-i", str(directory / "user_key")]
            + [word for option in options for word in ("-o", option)]
            + [LOCALHOST, "cat; echo done"],
            input=content,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.stdout == content + b"done\n", done.stderr
