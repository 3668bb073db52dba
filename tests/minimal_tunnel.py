"""The file tool, a relay and a tunnel, with nothing but Python and the two packages that the project needs.

`make test-minimal` runs this with Debian's own python3, which has no test framework: a plain program that
prints a line for each thing that works, and exits with status 0.
"""

from __future__ import annotations

import importlib.util
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from offset_common.client import connect, listen  # noqa: E402
from offset_common.constants import MAX_MESSAGE_SIZE  # noqa: E402
from offset_common.identity import load_identity  # noqa: E402
from offset_common.tickets import RelayTicket  # noqa: E402

FILES = ROOT / "tests" / "vectors" / "files"
PACKAGES = Path("/usr/lib/python3/dist-packages")  # Debian's own packages, and nothing else
PATIENCE = 60.0  # seconds for anything
READY = re.compile(r"relay ready: (?:listening on |address=)([^ ,]+)")

# Files of the original programs, and the command lines that make them.
RECORDED = {
    "relay.relay": "relay-ticket -i relay.ident -a relay.example.com:1337",
    "index.index": "index-ticket -i relay.ident -a [2001:db8::1]:1337",
    "node.ticket": "node-ticket -i relay.ident -a 127.0.0.1:8900",
    "app.ticket": "app-ticket -i app.ident --pseller --pbuyer",
    "node.rcard": "node-entry -n relay.ident -p app.ident -a 127.0.0.1:8900",
    "node.db": "init-node-db -i relay.ident",
}


def main() -> None:
    """Check everything, or exit at the first failure."""
    check_packages()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        check_files(directory)
        check_errors(directory)
        with running_relay(directory) as ticket:
            for end_to_end in (False, True):
                check_tunnel(ticket, directory, end_to_end)
    print("minimal host: everything works")


def check(holds: bool, sentence: str) -> None:
    """Print what works, or exit with what doesn't."""
    if not holds:
        sys.exit(f"FAILED: {sentence}")
    print(f"ok: {sentence}")


def check_packages() -> None:
    """Check that only Debian's own packages are used."""
    for name in ("cryptography", "docopt"):
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin) if spec and spec.origin else Path()
        check(PACKAGES in origin.parents, f"{name} is Debian's package ({origin})")


def stmgr(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run stmgr.py in the directory of the recorded files."""
    command = [sys.executable, str(ROOT / "stmgr.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=FILES, capture_output=True, text=True, timeout=PATIENCE)


def check_files(directory: Path) -> None:
    """Check that stmgr makes the same files as the original programs."""
    for name, line in RECORDED.items():
        done = stmgr(*line.split(), "--output", directory / name)
        same = done.returncode == 0 and (directory / name).read_bytes() == (FILES / name).read_bytes()
        check(same, f"stmgr {line.split()[0]} makes the original's file {done.stderr}".rstrip())
    for name in ("relay", "listener", "caller"):
        stmgr("gen-ident", "--output", directory / f"{name}.ident")
        load_identity(directory / f"{name}.ident")
    check(True, "stmgr gen-ident makes identities")


def check_errors(directory: Path) -> None:
    """Check the exit statuses with Debian's docopt 0.6.2, which words some errors in its own way."""
    again = ["gen-ident", "--output", directory / "relay.ident"]
    for arguments, status in ((["--help"], 0), (["gen-ident"], 2), (["no-such"], 2), (again, 1)):
        done = stmgr(*arguments)
        right = done.returncode == status and "Traceback" not in done.stderr
        check(right, f"stmgr {' '.join(map(str, arguments))}: status {status}")


@contextmanager
def running_relay(directory: Path) -> Iterator[RelayTicket]:
    """Run strelay.py on a free port; yield the ticket that stmgr makes for it."""
    identity = directory / "relay.ident"
    command = [sys.executable, str(ROOT / "strelay.py"), "--idfile", str(identity), "--laddr", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as relay:
        watchdog = threading.Timer(3 * PATIENCE, relay.kill)
        watchdog.start()
        try:
            assert relay.stderr is not None
            line = relay.stderr.readline()
            ready = READY.search(line)
            check(ready is not None, f"strelay: {line.rstrip()}")
            ticket = directory / "running.relay"
            stmgr("relay-ticket", "-a", ready[1] if ready else "", "-i", identity, "-o", ticket)
            yield RelayTicket.load(ticket)
            relay.send_signal(signal.SIGTERM)
            check(relay.wait(PATIENCE) == 0, "SIGTERM ends the relay with status 0")
        finally:
            relay.kill()
            watchdog.cancel()


def check_tunnel(ticket: RelayTicket, directory: Path, end_to_end: bool) -> None:
    """Check that messages pass a tunnel and come back, unchanged and in order."""
    messages = [b"", b"hello", bytes(range(256)) * 256, bytes(MAX_MESSAGE_SIZE // 2)]
    listener_identity = load_identity(directory / "listener.ident")
    caller_identity = load_identity(directory / "caller.ident")
    with listen(ticket, listener_identity) as listener:

        def echo() -> None:
            with listener.receive(PATIENCE).accept(end_to_end=end_to_end) as tunnel:
                for message in tunnel:
                    tunnel.send(message)

        thread = threading.Thread(target=echo, daemon=True)
        thread.start()
        with connect(ticket, caller_identity, listener_identity.public_key, end_to_end=end_to_end) as tunnel:
            for message in messages:
                tunnel.send(message)
            returned = [tunnel.receive(PATIENCE) for _ in messages]
        thread.join(PATIENCE)
    how = "end to end" if end_to_end else "in a tunnel"
    check(returned == messages and not thread.is_alive(), f"{len(messages)} messages pass {how} and return")


if __name__ == "__main__":
    main()
