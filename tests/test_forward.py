"""examples/forward.py: TCP connections between two processes of it, through a relay in a third."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Callable, NamedTuple, Optional
from urllib.request import urlopen

import pytest

from examples.forward import main
from examples.forwarding.bridge import DATA, END, LINGER_RESET
from examples.forwarding.sides import FIRST_DELAY, MAX_DELAY, Backoff
from offset_common.address import Address
from offset_common.channel.keepalive import KeepaliveChannel
from offset_common.client import Tunnel, connect, listen
from offset_common.errors import ConnectionEnded, OffsetError
from offset_common.identity import Identity, encode_key, save_identity
from offset_common.tickets import RelayTicket
from tests.end_to_end.relay_process import RelayProcess, write_identity

ROOT = Path(__file__).resolve().parent.parent
FORWARD = str(ROOT / "examples" / "forward.py")
LOCALHOST = "127.0.0.1"
PATIENCE = 15.0  # seconds after which something that must come is missing


class Program:
    """One forward.py that runs; what it writes is collected in a thread."""

    def __init__(self, *arguments: str, directory: Path = Path("/")) -> None:
        self.process = subprocess.Popen(
            [sys.executable, FORWARD, *arguments], cwd=directory, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def wait_for(self, pattern: str, count: int = 1) -> str:
        """Return the last of the first `count` lines that match."""

        def found() -> list[str]:
            return [line for line in self.lines if re.search(pattern, line)]

        with self._changed:
            came = self._changed.wait_for(lambda: len(found()) >= count, PATIENCE)
            assert came, f"{pattern!r} did not come {count} times: {self.lines[-20:]}"
            return found()[count - 1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the status with which it ends."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self._reader.join(PATIENCE)
            assert self.process.stderr is not None
            self.process.stderr.close()


class Setting:
    """A relay, two keys, and the programs that a test starts between them."""

    def __init__(self, directory: Path, relay: RelayProcess) -> None:
        self.directory = directory
        self.ticket = RelayTicket(relay.public_key, Address(LOCALHOST, relay.port))
        self.ticket.save(directory / "relay.relay")
        self.home, self.laptop = self.identity("home"), self.identity("laptop")
        self.programs: list[Program] = []

    def identity(self, name: str) -> Identity:
        identity = Identity.generate()
        save_identity(identity, self.directory / f"{name}.ident")
        return identity

    def start(self, command: str, name: str, *options: str) -> Program:
        files = ("--ticket", str(self.directory / "relay.relay"))
        identity = ("--idfile", str(self.directory / f"{name}.ident"))
        self.programs.append(Program(command, *files, *identity, *options))
        return self.programs[-1]

    def serve(self, port: int, *options: str, allow: Optional[Identity] = None) -> Program:
        """Let the laptop, or another, reach a port; return when the relay has been told."""
        allowed = encode_key((allow or self.laptop).public_key)
        program = self.start("serve", "home", "--to", f"{LOCALHOST}:{port}", "--allow", allowed, *options)
        program.wait_for("^forward ready: ")
        return program

    def dial(self, *options: str, name: str = "laptop") -> tuple[Program, int]:
        """Start the other side; return it and the port at which it listens."""
        peer = encode_key(self.home.public_key)
        program = self.start("dial", name, "--peer", peer, "--port", "0", *options)
        ready = re.match(r"forward ready: listening on 127\.0\.0\.1:(\d+), ", program.wait_for("ready"))
        assert ready is not None
        return program, int(ready[1])

    def both(self, port: int) -> int:
        """Start both sides; return the port that leads to `port`."""
        self.serve(port)
        return self.dial()[1]

    def end(self) -> None:
        for program in self.programs:
            if program.process.returncode is None:
                assert program.stop() == 0, program.lines
            assert not [line for line in program.lines if "Traceback" in line], "\n".join(program.lines)


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    process = RelayProcess(write_identity(tmp_path_factory.mktemp("relay")))
    try:
        yield process
    finally:
        process.end()


@pytest.fixture
def setting(tmp_path: Path, relay: RelayProcess) -> Iterator[Setting]:
    setting = Setting(tmp_path, relay)
    try:
        yield setting
    finally:
        setting.end()


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """A TCP server with a thread for each connection; `answer` has it, and it is closed afterwards."""

    def run(sock: socket.socket) -> None:
        with sock, contextlib.suppress(ConnectionError):
            sock.settimeout(PATIENCE)
            answer(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=run, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server((LOCALHOST, 0), backlog=128) as listening:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join(PATIENCE)


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


def reach(port: int) -> socket.socket:
    return socket.create_connection((LOCALHOST, port), PATIENCE)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send bytes to an echo, and return as many."""
    sock.sendall(data)
    return read_exactly(sock, len(data))


def read_exactly(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        more = sock.recv(size - len(received))
        assert more, f"the end came after {len(received)} of {size} bytes"
        received += more
    return bytes(received)


def wait_for_reset(sock: socket.socket) -> None:
    """Read until the connection is reset; its end in order is a failure."""
    with pytest.raises(ConnectionResetError):
        while sock.recv(65536):
            pass
        pytest.fail("the connection ended in order")


def test_several_downloads_at_once_from_an_http_server_are_whole(setting: Setting) -> None:
    served = setting.directory / "served"
    served.mkdir()
    digests = {}
    for size in (0, 1, 1000, 65536, 3_000_000, 10_000_000):
        content = os.urandom(size)
        (served / str(size)).write_bytes(content)
        digests[str(size)] = hashlib.sha256(content).digest()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    def download(name: str) -> bytes:
        with urlopen(f"http://{LOCALHOST}:{port}/{name}", timeout=PATIENCE) as response:
            return hashlib.sha256(response.read()).digest()

    with ThreadingHTTPServer((LOCALHOST, 0), partial(Quiet, directory=str(served))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        port = setting.both(http.server_port)
        names = list(digests) * 2
        with ThreadPoolExecutor(len(names)) as pool:
            assert list(pool.map(download, names)) == [digests[name] for name in names]
        http.shutdown()


def test_a_server_that_answers_after_the_end_of_the_request_is_heard(setting: Setting) -> None:
    with server(lambda sock: sock.sendall(hashlib.sha256(read_all(sock)).digest())) as target:
        with reach(setting.both(target)) as sock:
            request = os.urandom(300_000)
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == hashlib.sha256(request).digest()
        for program in setting.programs:
            program.wait_for("connection 1: ended")


def test_a_client_that_writes_on_after_the_servers_end_is_heard(setting: Setting) -> None:
    heard: Queue[bytes] = Queue()

    def answer(sock: socket.socket) -> None:
        sock.sendall(b"go on")
        sock.shutdown(socket.SHUT_WR)
        heard.put(read_all(sock))

    with server(answer) as target:
        with reach(setting.both(target)) as sock:
            assert read_all(sock) == b"go on"
            sock.sendall(b"as you say")
        for program in setting.programs:
            program.wait_for("connection 1: ended")
        assert heard.get(timeout=PATIENCE) == b"as you say"


def test_much_goes_both_ways_at_the_same_time(setting: Setting) -> None:
    size = 16_000_000
    content = os.urandom(size)
    with server(echo) as target, reach(setting.both(target)) as sock, ThreadPoolExecutor() as pool:
        sending = pool.submit(sock.sendall, content)
        assert read_exactly(sock, size) == content
        sending.result(PATIENCE)


def test_a_byte_is_not_held_back_for_more(setting: Setting) -> None:
    """The server says nothing after the first of two bytes: its acknowledgement of that takes 40 ms."""
    first_came = threading.Semaphore(0)

    def answer(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while first := sock.recv(1):
            first_came.release()
            sock.sendall(first + sock.recv(1))

    with server(answer) as target, reach(setting.both(target)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = []
        for _ in range(60):
            sock.sendall(b"1")
            assert first_came.acquire(timeout=PATIENCE)
            began = time.monotonic()
            sock.sendall(b"2")
            assert read_exactly(sock, 2) == b"12"
            times.append(time.monotonic() - began)
        assert sorted(times)[40] < 0.03


def test_a_reader_that_stops_holds_back_its_own_sender_and_nobody_else(setting: Setting) -> None:
    sent = [0]
    stalled = threading.Event()

    def flood(sock: socket.socket) -> None:
        if sock.recv(1) == b"e":
            return echo(sock)
        sock.settimeout(1.0)
        with contextlib.suppress(socket.timeout):
            while sent[0] < 1_000_000_000:
                sent[0] += sock.send(bytes(65536))
        return stalled.set()

    with server(flood) as target:
        port = setting.both(target)
        with reach(port) as slow, reach(port) as other:
            slow.sendall(b"f")
            other.sendall(b"e")
            assert exchange(other, b"beside it") == b"beside it"
            assert stalled.wait(PATIENCE), f"{sent[0]} bytes were taken, and no end of it"
            assert exchange(other, b"still") == b"still"


def test_many_connections_at_once_are_kept_apart(setting: Setting) -> None:
    with server(echo) as target, contextlib.ExitStack() as open_sockets:
        port = setting.both(target)
        socks = [open_sockets.enter_context(reach(port)) for _ in range(40)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%08d" % number)
        for number, sock in enumerate(socks):
            assert read_exactly(sock, 8) == b"%08d" % number


def test_over_the_most_connections_the_next_waits_until_one_ends(setting: Setting) -> None:
    with server(echo) as target:
        serving = setting.serve(target, "--max", "1")
        _, port = setting.dial()
        with reach(port) as second, contextlib.ExitStack() as first_open:
            first = first_open.enter_context(reach(port))
            # Whichever of the two came first has the only place.
            second.sendall(b"b")
            first.sendall(b"a")
            serving.wait_for("refused for now: .*, as many connections as --max says")
            serving.wait_for("connection 1: from")
            ready = wait_for_either(first, second)
            assert ready.recv(1) == (b"a" if ready is first else b"b")
            rest = second if ready is first else first
            ready.close()
            assert rest.recv(1) == (b"a" if rest is first else b"b")


def wait_for_either(first: socket.socket, second: socket.socket) -> socket.socket:
    readable, _, _ = select.select([first, second], [], [], PATIENCE)
    assert len(readable) == 1
    found: socket.socket = readable[0]
    return found


def test_a_key_that_is_not_allowed_is_refused_and_named(setting: Setting) -> None:
    reached: list[bytes] = []
    with server(lambda sock: reached.append(sock.recv(1))) as target:
        serving = setting.serve(target, allow=Identity.generate())
        dialing, port = setting.dial("--wait", "1")
        with reach(port) as sock:
            wait_for_reset(sock)
        serving.wait_for(f"^refused: {encode_key(setting.laptop.public_key)} is not allowed$")
        dialing.wait_for("connection 1: not made: .*turned the connect away")
    assert reached == []


def test_refusals_do_not_fill_the_log(setting: Setting) -> None:
    with server(echo) as target:
        serving = setting.serve(target)
        for _ in range(25):
            stranger = connect(setting.ticket, Identity.generate(), setting.home.public_key)
            with stranger, pytest.raises(ConnectionEnded):
                stranger.receive(PATIENCE)
        port = setting.dial()[1]
        with reach(port) as sock:
            assert exchange(sock, b"after all of them") == b"after all of them"
        assert len([line for line in serving.lines if line.startswith("refused: ")]) == 10


def test_a_target_that_does_not_answer_resets_the_connection_and_is_named(setting: Setting) -> None:
    with socket.socket() as nobody:
        nobody.bind((LOCALHOST, 0))  # bound, and not listening: refused
        serving = setting.serve(nobody.getsockname()[1])
        with reach(setting.dial()[1]) as sock:
            wait_for_reset(sock)
        serving.wait_for(r"connection 1: not made: no TCP connection to 127\.0\.0\.1:\d+: Connection refused")


def test_a_server_that_resets_its_connection_resets_ours(setting: Setting) -> None:
    def reset(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)

    with server(reset) as target, reach(setting.both(target)) as sock:
        sock.sendall(b"?")
        wait_for_reset(sock)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
@pytest.mark.parametrize("which", ["serve", "dial"])
def test_half_a_file_does_not_look_like_a_whole_one(setting: Setting, which: str, number: int) -> None:
    with server(echo) as target:
        serving = setting.serve(target)
        dialing, port = setting.dial()
        with reach(port) as sock:
            assert exchange(sock, b"the first half") == b"the first half"
            status = (serving if which == "serve" else dialing).stop(number)
            assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
            wait_for_reset(sock)


def test_serve_comes_back_by_itself_when_the_relay_does(tmp_path: Path) -> None:
    identity = write_identity(tmp_path)
    first = RelayProcess(identity)
    setting = Setting(tmp_path, first)
    with server(echo) as target:
        try:
            serving = setting.serve(target)
            _, port = setting.dial()
            with reach(port) as sock:
                assert exchange(sock, b"before") == b"before"
                first.stop(signal.SIGKILL)
                wait_for_reset(sock)
            serving.wait_for("^not listening: .*; trying again in 0")
            with reach(port) as waiting:  # while there is no relay
                second = RelayProcess(identity, f"{LOCALHOST}:{first.port}")
                try:
                    assert exchange(waiting, b"after") == b"after"
                    serving.wait_for("^forward ready: ", count=2)
                finally:
                    setting.end()
                    second.end()
        finally:
            setting.end()


def test_serve_and_dial_may_be_there_before_the_relay(tmp_path: Path) -> None:
    identity = write_identity(tmp_path)
    relay = RelayProcess(identity)
    relay.end()
    setting = Setting(tmp_path, relay)
    with server(echo) as target, contextlib.ExitStack() as ends:
        ends.callback(setting.end)
        allowed = encode_key(setting.laptop.public_key)
        serving = setting.start("serve", "home", "--to", f"{LOCALHOST}:{target}", "--allow", allowed)
        serving.wait_for("^not listening: no TCP connection to .*: Connection refused; trying again in ")
        dialing, port = setting.dial()
        sock = ends.enter_context(reach(port))
        dialing.wait_for("connection 1: not yet: no TCP connection to .*; trying on for 30 s")
        again = RelayProcess(identity, f"{LOCALHOST}:{relay.port}")
        ends.callback(again.end)
        ends.callback(setting.end)
        assert exchange(sock, b"at last") == b"at last"


def test_a_connection_does_not_wait_for_a_relay_longer_than_told(tmp_path: Path) -> None:
    relay = RelayProcess(write_identity(tmp_path))
    relay.end()
    setting = Setting(tmp_path, relay)
    try:
        dialing, port = setting.dial("--wait", "1")
        with reach(port) as sock:
            wait_for_reset(sock)
        dialing.wait_for("connection 1: not made: no TCP connection to ")
    finally:
        setting.end()


def test_who_is_the_peer_by_the_relays_word_alone_gets_nothing(setting: Setting) -> None:
    """A listener with the peer's key, as the relay could pretend, that cannot prove it end to end."""
    with listen(setting.ticket, setting.home) as listener:
        dialing, port = setting.dial("--wait", "20")
        with reach(port) as sock:
            sock.sendall(b"secret")
            with listener.receive(PATIENCE).accept() as plain:
                impostor_says(plain, Identity.generate())
                wait_for_reset(sock)
        dialing.wait_for("connection 1: not made: the other node did not prove its key: .*another identity")


def test_a_caller_that_does_not_prove_its_key_end_to_end_does_not_reach_the_server(setting: Setting) -> None:
    reached: list[bytes] = []
    with server(lambda sock: reached.append(sock.recv(1))) as target:
        serving = setting.serve(target)
        with connect(setting.ticket, setting.laptop, setting.home.public_key) as plain:
            impostor_says(plain, Identity.generate())
            serving.wait_for("connection 1: not made: the other node did not prove its key: .*another id")
    assert reached == []


def impostor_says(plain: Tunnel, identity: Identity) -> None:
    """Begin the handshake between nodes, with another key than the relay has announced."""
    channel = KeepaliveChannel(identity, 0.0, None)
    for payload in channel.outgoing:
        plain.send(payload)


@pytest.mark.parametrize(
    "wrong", [b"", bytes([2]), bytes([END]) + b"more", bytes([END]), bytes([DATA]) + b"x"]
)
def test_a_message_that_forward_does_not_send_cuts_the_connection_off(setting: Setting, wrong: bytes) -> None:
    with listen(setting.ticket, setting.home) as listener, ThreadPoolExecutor() as pool:
        dialing, port = setting.dial()
        with reach(port):
            accepting = pool.submit(lambda: listener.receive(PATIENCE).accept(end_to_end=True))
            with accepting.result(PATIENCE) as tunnel:
                if wrong[:1] in (bytes([DATA]), bytes([END])):
                    tunnel.send(bytes([END]))  # after which nothing may come
                with contextlib.suppress(OffsetError):
                    tunnel.send(wrong)
                dialing.wait_for("connection 1: cut off: the peer sent what forward.py does not send")
                with pytest.raises(OffsetError):
                    tunnel.receive(PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both_sides_in_order(setting: Setting, number: int) -> None:
    with server(echo) as target:
        serving = setting.serve(target)
        dialing, _ = setting.dial()
        assert dialing.stop(number) == serving.stop(number) == 0
        assert all(line.startswith("forward ready: ") for line in serving.lines + dialing.lines)


def test_a_signal_ends_serve_while_it_waits_for_a_relay(tmp_path: Path) -> None:
    relay = RelayProcess(write_identity(tmp_path))
    relay.end()
    setting = Setting(tmp_path, relay)
    serving = setting.start(
        "serve", "home", "--to", "127.0.0.1:9", "--allow", encode_key(setting.laptop.public_key)
    )
    serving.wait_for("trying again", count=2)
    assert serving.stop() == 0


def test_key_prints_the_public_key_of_an_identity(run_forward: RunForward, tmp_path: Path) -> None:
    identity = Identity.generate()
    save_identity(identity, tmp_path / "my.ident")
    done = run_forward("key", "--idfile", str(tmp_path / "my.ident"))
    assert (done.status, done.stdout) == (0, encode_key(identity.public_key) + "\n")


class Outcome(NamedTuple):
    status: int
    stdout: str
    stderr: str


RunForward = Callable[..., Outcome]


@pytest.fixture
def run_forward(capsys: pytest.CaptureFixture[str]) -> RunForward:
    """Run forward.py in this process; for command lines that do not get as far as to wait for a signal."""

    def run_forward(*arguments: str) -> Outcome:
        status = main(arguments)
        return Outcome(status, *capsys.readouterr())

    return run_forward


KEY = encode_key(bytes(32))
FILES = ("--ticket", "r.relay", "--idfile", "me.ident")
SERVE = ("serve", *FILES, "--to", "127.0.0.1:22", "--allow", KEY)
DIAL = ("dial", *FILES, "--peer", KEY, "--port", "0")


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (SERVE, 1, "r.relay: No such file or directory"),
        (DIAL, 1, "r.relay: No such file or directory"),
        (("key", "--idfile", "no.ident"), 1, "no.ident: No such file or directory"),
        (SERVE[:-2], 2, "--allow is missing"),
        (DIAL[:-2], 2, "--port is missing"),
        ((*SERVE, "--allow", "abc"), 2, "the key of --allow has 3 characters, not the 43 of a 32-byte key"),
        ((*SERVE[:6], "home", *SERVE[7:]), 2, "the address 'home' has no port; "),
        ((*DIAL[:-1], "70000"), 2, "--port is a whole number from 0 to 65535, not '70000'"),
        ((*DIAL, "--max", "0"), 2, "--max is a whole number from 1 to 1000, not '0'"),
        ((*DIAL, "--wait", "x"), 2, "--wait is a whole number from 1 to 3600, not 'x'"),
        ((*DIAL, "--peeer", "x"), 2, "unknown option --peeer; did you mean --peer?"),
    ],
)
def test_what_the_person_can_mend_is_one_clear_line(
    run_forward: RunForward, arguments: tuple[str, ...], status: int, line: str
) -> None:
    done = run_forward(*arguments)
    assert done.status == status
    assert done.stderr.splitlines()[0].startswith(f"forward: {line}"), done.stderr
    assert done.stdout == ""


def test_no_command_and_no_such_command_are_told_apart(run_forward: RunForward) -> None:
    assert run_forward().stderr.startswith("forward: no command is given\nUsage:\n")
    wrong = run_forward("srve", *SERVE[1:])
    assert wrong.status == 2
    assert wrong.stderr.startswith("forward: there is no command 'srve'; did you mean serve?\nUsage:\n")


@pytest.mark.parametrize("arguments", [("--help",), ("serve", "--help"), ("dial", "-h")])
def test_help_has_every_command(run_forward: RunForward, arguments: tuple[str, ...]) -> None:
    done = run_forward(*arguments)
    assert done.status == 0
    for command in ("serve", "dial", "key"):
        assert f"\n  forward.py {command} --" in done.stdout


def test_a_port_that_is_taken_is_one_clear_line(setting: Setting) -> None:
    with socket.create_server((LOCALHOST, 0)) as taken:
        port = taken.getsockname()[1]
        peer = encode_key(setting.home.public_key)
        program = setting.start("dial", "laptop", "--peer", peer, "--port", str(port))
        assert program.wait() == 1
        assert program.lines == [f"forward: cannot listen on 127.0.0.1:{port}: Address already in use"]
        setting.programs.clear()


def test_the_delays_double_up_to_a_cap_and_chance_takes_up_to_half() -> None:
    longest, shortest = Backoff(lambda: 1.0), Backoff(lambda: 0.0)
    long_delays = [longest.next() for _ in range(12)]
    assert long_delays[:4] == [FIRST_DELAY * factor for factor in (1, 2, 4, 8)]
    assert long_delays[-3:] == [MAX_DELAY] * 3
    assert [shortest.next() * 2 for _ in range(12)] == long_delays


README = Path("/tmp/readme_forward.md").read_text("utf-8")
README_COMMANDS = re.findall(
    r"^ +python ((?:stmgr|examples/forward)\.py .*(?:home|laptop)\.ident.*)$", README, re.M
)


def test_the_commands_of_the_readme_lead_to_the_server(setting: Setting, tmp_path: Path) -> None:
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
                setting.programs.append(Program(command, *options, directory=here))
                ready = setting.programs[-1].wait_for("^forward ready: ")
        found = re.search(r"127\.0\.0\.1:(\d+), ", ready)
        assert found is not None
        with reach(int(found[1])) as sock:
            assert exchange(sock, b"hello") == b"hello"


SSHD = shutil.which("sshd", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))


@pytest.mark.skipif(not (SSHD and shutil.which("ssh")), reason="needs ssh and sshd")
def test_ssh_works_through_it(setting: Setting) -> None:
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
