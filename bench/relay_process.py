"""Run a relay in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bench.processes import cpu_seconds, memory_size, process_tree
from offset_common.errors import OperatorError
from offset_common.identity import Identity, save_identity

ROOT = Path(__file__).absolute().parent.parent
START_TIMEOUT = 20.0  # seconds until the ready line

_READY = re.compile(r"relay ready.*?127\.0\.0\.1:(\d+)")  # in text and in JSON


class RelayProcess:
    """A relay on a free port of 127.0.0.1, while the `with` block lasts.

    Args:
        options: additional options of the relay.
        script: the relay's program, from the root of the project.
        identity: its identity; None for a new one.
    """

    def __init__(
        self, options: Sequence[str] = (), script: str = "strelay.py", identity: Optional[Identity] = None
    ) -> None:
        self._options = options
        self._script = script
        self._identity = identity or Identity.generate()
        self.public_key = self._identity.public_key
        self.port = 0

    def __enter__(self) -> RelayProcess:
        self._directory = tempfile.TemporaryDirectory(prefix="offset-bench-")
        directory = Path(self._directory.name)
        save_identity(self._identity, directory / "relay.ident")
        self._log = directory / "log"
        command = [sys.executable, str(ROOT / self._script), "-i", str(directory / "relay.ident")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "-l", "127.0.0.1:0", *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.terminate()  # the second signal skips the drain
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._directory.cleanup()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Return the CPU time in seconds that all processes of the relay have used so far."""
        return cpu_seconds(process_tree(self._process.pid))

    def log(self) -> str:
        """Return what the relay has logged."""
        return self._log.read_text(errors="replace")

    def memory_size(self) -> int:
        """Return the memory in bytes of all processes of the relay."""
        return memory_size(process_tree(self._process.pid))

    def threads(self) -> int:
        """Return the number of threads of the relay's main process."""
        return len(list(Path(f"/proc/{self._process.pid}/task").iterdir()))

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            text = self._log.read_text(errors="replace")
            port = read_port(text)
            if port is not None:
                self.port = port
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise OperatorError(f"the relay did not start: {text.strip() or 'it printed nothing'}")
            time.sleep(0.01)


def read_port(log: str) -> Optional[int]:
    """Return the port in the relay's ready line, or None before that line is written."""
    ready = _READY.search(log)
    return int(ready[1]) if ready else None


def relay_has_option(option: str) -> bool:
    """Return whether strelay.py has an option."""
    command = [sys.executable, str(ROOT / "strelay.py"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT, cwd=ROOT)
    return option in result.stdout
