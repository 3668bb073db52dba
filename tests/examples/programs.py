"""The processes of the examples that talk through a relay."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from offset_common.identity import Identity, encode_key, save_identity
from tests.support.process import PATIENCE, ROOT, LoggedProcess
from tests.support.relay_process import RelayProcess


class Programs:
    """Two identities in a directory, and the examples that use them."""

    def __init__(self, directory: Path, relay: RelayProcess) -> None:
        self.directory = directory
        self.relay = relay
        self.home, self.phone = Identity.generate(), Identity.generate()
        save_identity(self.home, directory / "home")
        save_identity(self.phone, directory / "phone")
        self.ticket = relay.ticket
        self.ticket.save(directory / "ticket")
        self.inbox = directory / "inbox"
        self.inbox.mkdir()
        self.started = ExitStack()

    def serve(self, script: str) -> LoggedProcess:
        """Start the serving side of an example, and wait until it listens."""
        arguments = {
            "listener.py": ["ticket", "home"],
            "json_rpc.py": ["serve", "ticket", "home"],
            "send_file.py": ["receive", "ticket", "home", "inbox", encode_key(self.phone.public_key)],
            "chat.py": ["room", "ticket", "home"],
        }[script]
        process = LoggedProcess(self.command(script, *arguments), self.directory)
        self.started.callback(process.kill)
        process.wait_for_line("^listening for ")
        return process

    def call(self, key: str = "") -> subprocess.CompletedProcess[str]:
        """Run caller.py to its end."""
        return self._run("caller.py", "ticket", "phone", key or encode_key(self.home.public_key))

    def run(self, script: str, role: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the calling side of another example to its end."""
        return self._run(script, role, "ticket", "phone", encode_key(self.home.public_key), *arguments)

    def _run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script, *arguments),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=3 * PATIENCE,
        )

    @staticmethod
    def command(script: str, *arguments: str) -> list[str]:
        """Return the command line of an example."""
        return [sys.executable, str(ROOT / "examples" / script), *arguments]
