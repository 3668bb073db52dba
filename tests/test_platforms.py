"""Other systems: Windows without Unix modules, macOS without Linux features, 32-bit machines.

A process takes away what such a system lacks, then runs the program.
"""

from __future__ import annotations

import re
import shutil
import sys

import pytest

from tests.commands import FILES, ROOT, Outcome, run_python
from tests.support.relay_process import start_relay

__all__ = ["start_relay"]

# Windows makes its pairs of sockets by TCP.
WINDOWS = """
import os, signal, socket, sys
for name in ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty"):
    sys.modules[name] = None
def socketpair(family=socket.AF_INET, type=socket.SOCK_STREAM, proto=0):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]
socket.socketpair = socketpair
UNIX = {
    socket: ("AF_UNIX", "MSG_DONTWAIT", "SOCK_SEQPACKET", "SO_REUSEPORT", "CMSG_LEN", "send_fds", "recv_fds"),
    os: ("geteuid", "getuid", "fork", "sched_getaffinity", "O_NONBLOCK", "O_CLOEXEC", "getxattr", "mkfifo",
         "register_at_fork", "chown"),
    signal: ("SIGUSR1", "SIGHUP", "SIGPIPE", "pthread_sigmask"),
}
for module, names in UNIX.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""
MAC = """
import os, socket, sys
if hasattr(os, "sched_getaffinity"):
    del os.sched_getaffinity
del socket.SOCK_SEQPACKET
"""
RUN_SCRIPT = "\nimport runpy\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"


def run_code(code: str, *line: object) -> Outcome:
    return run_python("-c", code, *line, directory=ROOT)


def run_on(system: str, script: str, *line: object) -> Outcome:
    return run_code(system + RUN_SCRIPT, script, *line)


def test_stmgr_works_without_unix_modules(tmp_path):
    ident, ticket = tmp_path / "a.ident", tmp_path / "a.relay"
    assert run_on(WINDOWS, "stmgr.py", "gen-ident", "-o", ident) == (0, "", "")
    line = ["relay-ticket", "-i", ident, "-a", "127.0.0.1:1", "-o", ticket]
    assert run_on(WINDOWS, "stmgr.py", *line) == (0, "", "")
    status, out, err = run_on(WINDOWS, "stmgr.py", "show", ident)
    assert (status, err) == (0, "")
    assert "Warning" not in out
    status, out, err = run_on(WINDOWS, "stmgr.py", "relay-check", ticket)
    assert status == 1
    assert "nothing listens" in out + err or "no program listens" in out + err
    assert "Traceback" not in err


def test_strelay_names_what_it_needs():
    status, out, err = run_on(WINDOWS, "strelay.py", "--help")
    assert (status, out) == (1, "")
    assert err == (
        "strelay: this system has no fcntl, resource, termios, socket.MSG_DONTWAIT;"
        " run the relay on Linux, macOS or another Unix (stmgr and clients work here)\n"
    )


CLIENTS = """
import threading
from offset_common.client import connect, listen
from offset_common.identity import Identity
from offset_common.tickets import RelayTicket
ticket = RelayTicket.load(sys.argv[1])
ours, theirs = Identity.generate(), Identity.generate()
with listen(ticket, ours) as listener:
    def answer():
        with listener.receive(20).accept(end_to_end=True) as tunnel:
            for message in tunnel:
                tunnel.send(message[::-1])
    threading.Thread(target=answer, daemon=True).start()
    with connect(ticket, theirs, ours.public_key, end_to_end=True) as tunnel:
        tunnel.send(b"hello")
        print(tunnel.receive(20).decode())
"""


def test_clients_work_without_unix_modules(tmp_path, start_relay):
    start_relay().ticket.save(tmp_path / "a.relay")
    assert run_code(WINDOWS + CLIENTS, tmp_path / "a.relay") == (0, "olleh\n", "")


@pytest.mark.parametrize("options", [[], ["--workers", "1"], ["--workers", "auto"]])
def test_one_process_works_without_linux_features(options, tmp_path, start_relay):
    drop_interpreter = "\nsys.argv.pop(1)"  # the command line of the relay begins with it
    relay = start_relay(*options, prefix=[sys.executable, "-c", MAC + drop_interpreter + RUN_SCRIPT])
    relay.ticket.save(tmp_path / "a.relay")
    assert run_code(MAC + CLIENTS, tmp_path / "a.relay") == (0, "olleh\n", "")
    relay.stop_cleanly()


def test_workers_without_sock_seqpacket_are_refused():
    line = ["-i", FILES / "relay.ident", "-l", "127.0.0.1:0", "--workers", "2"]
    message = "strelay: --workers 2 is not possible on this system; use --workers 1\n"
    assert run_on(MAC, "strelay.py", *line) == (2, "", message)


def test_pages_are_found_in_a_zip_file(tmp_path):
    shutil.make_archive(str(tmp_path / "offset"), "zip", ROOT, "offset_common")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from offset_common.illustrate.page import PAGE
from offset_common.status.routes import Routes
answer = Routes(None, None, None, None, any_host=True)._page
print(__import__("offset_common").__file__, len(PAGE.read_text("utf-8")) > 1000, len(answer.body) > 1000)
"""
    found = f"{tmp_path}/offset.zip/offset_common/__init__.py True True\n"
    assert run_code(code, tmp_path / "offset.zip") == (0, found, "")


def test_no_struct_format_depends_on_the_machine():
    """Native sizes differ between 32 and 64 bits, so each format of `struct` gives its byte order."""
    for path in (ROOT / "offset_common").rglob("*.py"):
        written = re.findall(r'\b(?:struct\.\w+|Struct)\(f?"([^"]+)"', path.read_text())
        formats = [re.sub(r"\{.*?\}", "", text) for text in written]
        native = [text for text in formats if re.fullmatch(r"@?[\dxcbB?hHiIlLqQnNefdspP]+", text)]
        assert [text for text in native if set(text) & set("lLnNPqQ")] == [], path


def test_relay_needs_no_ctypes():
    without_libffi = "import sys\nsys.modules['ctypes'] = None"
    line = ["--idfile", FILES / "relay.ident", "--laddr", "127.0.0.1:0", "--check"]
    assert run_on(without_libffi, "strelay.py", *line) == (0, "the configuration is valid\n", "")
