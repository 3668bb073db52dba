"""A tunnel as a file: the bytes of its messages, in order."""

from __future__ import annotations

import io
import pickle
import shutil
from array import array
from collections.abc import Iterable
from typing import Optional

import pytest

from offset_common.client.stream import TunnelStream, make_file
from offset_common.constants import MAX_MESSAGE_SIZE
from offset_common.errors import ConnectionEnded, ConnectionLost, OffsetError
from tests.support.client import both_ways, tunnel_pair
from tests.support.process import PATIENCE
from tests.support.relay_process import RelayProcess


class Recorder:
    """A tunnel that yields given messages, then an error, and records what is sent."""

    def __init__(self, messages: Iterable[bytes] = (), error: Optional[OffsetError] = None) -> None:
        self.sent: list[bytes] = []
        self._messages = list(messages)
        self._error = error or ConnectionEnded("closed")

    def send(self, message: memoryview, timeout: object = None) -> None:
        self.sent.append(bytes(message))

    def receive(self, timeout: object = None) -> bytes:
        if self._messages:
            return self._messages.pop(0)
        raise self._error


def test_reads_join_messages_and_skip_empty_ones() -> None:
    file = make_file(Recorder([b"a", b"", b"bc\nd", b""]), "rb", "utf-8", None)
    assert (file.readline(), file.read(), file.read()) == (b"abc\n", b"d", b"")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_short_reads_lose_nothing(size: int) -> None:
    stream = TunnelStream(Recorder([b"abc", b"defg"]))
    assert b"".join(iter(lambda: stream.read(size), b"")) == b"abcdefg"


def test_lost_connection_is_not_end_of_file() -> None:
    file = make_file(Recorder([b"half"], ConnectionLost("cut off")), "rb", "utf-8", None)
    with pytest.raises(ConnectionLost):
        file.read()


def test_large_write_becomes_messages_of_legal_size() -> None:
    tunnel = Recorder()
    content = bytes(range(256)) * (10 * 1024)
    assert TunnelStream(tunnel).write(content) == len(content)
    assert b"".join(tunnel.sent) == content
    assert max(map(len, tunnel.sent)) == MAX_MESSAGE_SIZE


def test_write_takes_any_buffer() -> None:
    tunnel, numbers = Recorder(), array("H", [1, 2])
    stream = TunnelStream(tunnel)
    assert [stream.write(bytearray(b"abc")), stream.write(numbers)] == [3, 4]
    assert tunnel.sent == [b"abc", numbers.tobytes()]


def test_buffered_file_sends_when_it_is_flushed() -> None:
    tunnel = Recorder()
    file = make_file(tunnel, "w", "latin-1", None)
    file.write("gr\xfc\xdfe")
    assert tunnel.sent == []
    file.flush()
    assert tunnel.sent == [b"gr\xfc\xdfe"]


@pytest.mark.parametrize("mode", ["", "b", "a", "r+", "rr", "rbb", "x"])
def test_unknown_mode_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="invalid mode"):
        make_file(Recorder(), mode, "utf-8", None)


def test_stream_is_used_only_as_it_was_opened() -> None:
    with pytest.raises(io.UnsupportedOperation):
        TunnelStream(Recorder(), readable=False).read(1)
    with pytest.raises(io.UnsupportedOperation):
        TunnelStream(Recorder(), writable=False).write(b"a")


def test_closed_stream_is_refused() -> None:
    stream = TunnelStream(Recorder([b"a"]))
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)


@both_ways
def test_file_copies_through_a_tunnel(relay: RelayProcess, end_to_end: bool) -> None:
    content = bytes(range(256)) * 4096
    with tunnel_pair(relay, end_to_end) as (one, other):
        with one.makefile("wb") as target:
            shutil.copyfileobj(io.BytesIO(content), target)
        one.close(timeout=0)
        assert other.makefile("rb").read() == content


def test_pickles_pass_both_ways(relay: RelayProcess) -> None:
    with tunnel_pair(relay) as (one, other):
        near, far = one.makefile("rwb"), other.makefile("rwb")
        for writer, reader in ((near, far), (far, near)):
            pickle.dump({"a": [1, 2]}, writer)
            writer.flush()
            assert pickle.load(reader) == {"a": [1, 2]}


def test_text_lines_pass_through_a_tunnel(relay: RelayProcess) -> None:
    with tunnel_pair(relay) as (one, other):
        with one.makefile("w") as writer:
            print("one", "zwei \u2713", sep="\n", file=writer)
        one.close(timeout=0)
        assert list(other.makefile("r")) == ["one\n", "zwei \u2713\n"]


def test_closing_the_file_leaves_the_tunnel_open(relay: RelayProcess) -> None:
    with tunnel_pair(relay) as (one, other):
        one.makefile("rwb").close()
        one.send(b"still open")
        assert other.receive(PATIENCE) == b"still open"


def test_timeout_of_a_file_leaves_the_tunnel_open(relay: RelayProcess) -> None:
    with tunnel_pair(relay) as (one, other):
        with pytest.raises(TimeoutError):
            other.makefile("rb", timeout=0.05).read(1)
        one.send(b"later")
        assert other.receive(PATIENCE) == b"later"
