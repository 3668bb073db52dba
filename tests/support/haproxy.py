"""Debian's HAProxy as a process."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.process import free_port, wait_until
from tests.support.relay_process import LOCALHOST

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="needs Debian's haproxy")


@contextmanager
def haproxy(directory: Path, configuration: str) -> Iterator[int]:
    """Run HAProxy in the block, and yield its port.

    Args:
        directory: for its configuration file.
        configuration: the content of that file; it listens where the documented ones have `bind :4567`.
    """
    port, path = free_port(), directory / "haproxy.cfg"
    assert "bind :4567\n" in configuration
    path.write_text(configuration.replace("bind :4567\n", f"bind {LOCALHOST}:{port}\n"))
    with subprocess.Popen([str(HAPROXY), "-db", "-q", "-f", str(path)]) as process:

        def accepts() -> bool:
            assert process.poll() is None, "haproxy ended"
            with socket.socket() as sock:
                return sock.connect_ex((LOCALHOST, port)) == 0

        try:
            wait_until(accepts, "the start of haproxy")
            yield port
        finally:
            process.kill()
