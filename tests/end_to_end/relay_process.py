"""strelay.py as a process of its own."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import pytest

from tests.end_to_end.peer import Place

ROOT = Path(__file__).resolve().parent.parent.parent
READY = re.compile(r"^relay ready: address=(\S+) public_key=([A-Za-z0-9_-]{43})$")
PATIENCE = 20.0  # seconds that the process may take for anything


def write_identity(directory: Path) -> Path:
    """Write a fresh identity file, mode 0600."""
    path = directory / f"relay-{os.urandom(4).hex()}.ident"
    seed = base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()
    path.touch(mode=0o600)
    path.write_text(json.dumps({"privateKey": seed}, indent=2))
    return path


def command(identity: Path, address: str, *options: str) -> list[str]:
    """Return the command line of a relay."""
    script = str(ROOT / "strelay.py")
    return [sys.executable, script, "--idfile", str(identity), "--laddr", address, *options]


class RelayProcess:
    """A relay that runs; its log is collected in a thread.

    Args:
        identity: the identity file.
        address: where it listens.
        options: more of its command line.
        prefix: what runs it, in front of its command line.
    """

    def __init__(
        self,
        identity: Path,
        address: str = "127.0.0.1:0",
        options: Sequence[str] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        self.process = subprocess.Popen(
            [*prefix, *command(identity, address, *options)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()
        ready = READY.match(self.wait_for_line("ready"))
        assert ready is not None, self.lines
        self.addresses = ready[1].split(",")
        self.public_key = base64.urlsafe_b64decode(ready[2] + "=")
        self.port = int(self.addresses[0].rpartition(":")[2])

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.decode().rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for_line(self, pattern: str, count: int = 1) -> str:
        """Return the first line that matches, once `count` lines do."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while True:
                found = [line for line in self.lines if re.search(pattern, line)]
                if len(found) >= count:
                    return found[0]
                left = deadline - time.monotonic() if self._reader.is_alive() else 0.0
                assert left > 0, f"{pattern!r} came {len(found)} times in {self.lines[-50:]}"
                self._changed.wait(min(left, 0.5))

    def place(self, host: str = "127.0.0.1") -> Place:
        """Return where a node finds it, and its key."""
        return Place((host, self.port), self.public_key)

    @property
    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def stop(self, number: int = signal.SIGTERM) -> Optional[int]:
        """Send a signal; return the status with which it ends."""
        self.process.send_signal(number)
        try:
            status = self.process.wait(PATIENCE)
        finally:
            self.process.kill()
        self._reader.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return status

    def end(self) -> None:
        """Stop it in order, and check that nothing went wrong in its life."""
        if self.process.returncode is None:
            assert self.stop() == 0, self.lines[-50:]
        assert not [line for line in self.lines if "bug of the relay" in line or "Traceback" in line], (
            "\n".join(self.lines)
        )


def without_rights() -> list[str]:
    """Return what runs a command without the rights of root: nothing, where the tests do not have them."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv to give up the rights of root")
    return [setpriv, "--bounding-set=-all", "--inh-caps=-all"]
