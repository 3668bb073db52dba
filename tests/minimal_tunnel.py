"""The file tool, a relay and a tunnel through it, with nothing but Python and the two packages it needs.

`make test-minimal` runs this with Debian's own python3. No test framework is there, so it is a plain program:
status 0, and a line for each thing that was shown.
"""

from __future__ import annotations

import importlib.util
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
PACKAGES = Path("/usr/lib/python3/dist-packages")  # where Debian's own packages are, and nobody else's
PATIENCE = 20.0  # seconds for anything

# The file of the original, and the command line that makes it.
RECORDED = {
    "relay.relay": ["relay-ticket", "-i", "relay.ident", "-a", "relay.example.com:1337"],
    "index.index": ["index-ticket", "-i", "relay.ident", "-a", "[2001:db8::1]:1337"],
    "node.ticket": ["node-ticket", "-i", "relay.ident", "-a", "127.0.0.1:8900"],
    "app.ticket": ["app-ticket", "-i", "app.ident", "--pseller", "--pbuyer"],
    "node.rcard": ["node-entry", "-n", "relay.ident", "-p", "app.ident", "-a", "127.0.0.1:8900"],
    "node.db": ["init-node-db", "-i", "relay.ident"],
}


def main() -> None:
    """Show everything, or end with the first thing that is not so."""
    packages_are_debians()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        files_are_the_originals(directory)
        wrong_command_lines_are_refused(directory)
        with running_relay(directory) as ticket:
            for end_to_end in (False, True):
                tunnel_passes_messages(ticket, directory, end_to_end)
    print("minimal host: all of it works")


def check(holds: bool, sentence: str) -> None:
    """Print what holds, or end with it."""
    if not holds:
        sys.exit(f"FAILED: {sentence}")
    print(f"ok: {sentence}")


def packages_are_debians() -> None:
    """Check that nothing installed by other means is used."""
    for name in ("cryptography", "docopt"):
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec else None
        check(
            origin is not None and PACKAGES in Path(origin).parents, f"{name} is Debian's package ({origin})"
        )


def stmgr(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run stmgr.py, among the original's files."""
    command = [sys.executable, str(ROOT / "stmgr.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=FILES, capture_output=True, text=True, timeout=PATIENCE)


def files_are_the_originals(directory: Path) -> None:
    """Check every command of stmgr against what the original made."""
    for name, arguments in RECORDED.items():
        output = directory / name
        done = stmgr(*arguments, "--output", output)
        same = done.returncode == 0 and output.read_bytes() == (FILES / name).read_bytes()
        check(same, f"stmgr {arguments[0]} makes the original's file {done.stderr}".rstrip())
    for name in ("relay", "listener", "caller"):
        stmgr("gen-ident", "--output", directory / f"{name}.ident")
        load_identity(directory / f"{name}.ident")
    check(True, "stmgr gen-ident makes identities")


def wrong_command_lines_are_refused(directory: Path) -> None:
    """Check the answers of docopt 0.6.2, which words some of them in its own way."""
    for arguments, status in ((["--version"], 0), (["--help"], 0), (["gen-ident"], 2), (["no-such"], 2)):
        done = stmgr(*arguments)
        check(
            done.returncode == status and "Traceback" not in done.stderr,
            f"stmgr {arguments[0]}: status {status}",
        )
    done = stmgr("gen-ident", "--output", directory / "relay.ident")
    check(
        done.returncode == 1 and done.stderr.count("\n") == 1, "stmgr overwrites nothing: one line, status 1"
    )


@contextmanager
def running_relay(directory: Path) -> Iterator[RelayTicket]:
    """Run strelay.py on a free port; give the ticket that stmgr makes for it."""
    identity = directory / "relay.ident"
    command = [sys.executable, str(ROOT / "strelay.py"), "--idfile", str(identity), "--laddr", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as relay:
        watchdog = threading.Timer(3 * PATIENCE, relay.kill)
        watchdog.start()
        try:
            assert relay.stderr is not None
            ready = relay.stderr.readline()
            check(ready.startswith("relay ready: listening on "), f"strelay: {ready.rstrip()}")
            address = ready.split(" on ")[1].split(",")[0]
            ticket = directory / "running.relay"
            stmgr("relay-ticket", "--address", address, "--idfile", identity, "--output", ticket)
            yield RelayTicket.load(ticket)
            relay.send_signal(signal.SIGTERM)
            relay.wait(PATIENCE)
            check(relay.returncode == 0, "SIGTERM ends the relay with status 0")
        finally:
            relay.kill()
            watchdog.cancel()


def tunnel_passes_messages(ticket: RelayTicket, directory: Path, end_to_end: bool) -> None:
    """Check that what one node sends comes back from the other, unchanged and in order."""
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
            came = [tunnel.receive(PATIENCE) for _ in messages]
        thread.join(PATIENCE)
    how = "end to end" if end_to_end else "in a tunnel"
    check(came == messages and not thread.is_alive(), f"{len(messages)} messages pass {how} and come back")


if __name__ == "__main__":
    main()
