"""The benchmark sends what released nodes send, and counts and checks what arrives."""

from __future__ import annotations

import json
import socket
import threading

import pytest

pytest.importorskip("capnp")

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from bench import canary, encoding, floor, load, publish, targets, tunnels
from bench.__main__ import main as bench_main
from bench.client import open_tunnels
from bench.options import Figures
from bench.relay_process import RelayProcess
from offset_common.constants import NONCE_SIZE
from offset_common.wire.frames import FrameReader
from offset_common.wire.messages import ChannelMessage, KaMessage
from tests.channel import recorded
from tests.channel.peers import established
from tests.support.process import PATIENCE
from tests.wire import oracle

KEY = bytes(range(32))
ENCODERS = [encoding.encode_as_released, encoding.encode_as_own]


def open_frames(key: bytes, stream: bytes) -> list[bytes]:
    reader, aead = FrameReader(limit=1 << 21), ChaCha20Poly1305(key)
    reader.receive_data(stream)
    opened: list[bytes] = []
    while (payload := reader.next_frame()) is not None:
        nonce = len(opened).to_bytes(NONCE_SIZE, "little")
        assert payload[:NONCE_SIZE] == nonce
        opened.append(aead.decrypt(nonce, payload[NONCE_SIZE:], None))
    return opened


def test_released_encoding_equals_recorded_messages():
    compared = 0
    for recording in recorded.load("channel.json"):
        for plaintext in recording.plaintexts("received"):
            message = ChannelMessage.decode(plaintext)
            assert isinstance(message.content, bytes)
            payload = KaMessage.decode(message.content).message
            if payload is not None:
                assert encoding.encode_as_released(payload, message.rand_padding) == plaintext
                compared += 1
    assert compared > 10


@pytest.mark.parametrize("encode", ENCODERS)
@pytest.mark.parametrize(("size", "max_padding"), [(64, 255), (1024, 65535), (65536, 255)])
def test_pycapnp_reads_the_input(encode, size, max_padding):
    for plaintext in encoding.make_plaintexts(encode, size, max_padding)[:20]:
        message = oracle.read(ChannelMessage, plaintext.encoded)
        assert isinstance(message, ChannelMessage) and isinstance(message.content, bytes)
        assert oracle.read(KaMessage, message.content) == KaMessage(plaintext.payload)
        assert len(plaintext.payload) == size
        assert len(message.rand_padding) <= max_padding


@pytest.mark.parametrize("name", ["forward_in_place", "forward_plainly"])
def test_floor_encrypts_every_plaintext_with_its_other_key(name):
    if name == "forward_in_place" and not hasattr(ChaCha20Poly1305, "encrypt_into"):
        pytest.skip("this cryptography has no encrypt_into")
    plaintexts = [
        *encoding.make_plaintexts(encoding.encode_as_released, 64, 255)[:50],
        *encoding.make_plaintexts(encoding.encode_as_released, 256 * 1024, 65535)[:5],
    ]
    frames = encoding.seal_frames(floor.OPENING_KEY, 0, plaintexts, len(plaintexts))
    sink, source = socket.socketpair()
    inner_sink, inner_source = socket.socketpair()
    with sink, inner_source:
        forwarding = threading.Thread(target=_forward_and_close, args=(name, source, inner_sink), daemon=True)
        forwarding.start()
        threading.Thread(target=_send_and_close, args=(sink, frames), daemon=True).start()
        inner_source.settimeout(PATIENCE)
        received = bytearray()
        while data := inner_source.recv(1 << 20):
            received += data
    assert open_frames(floor.SEALING_KEY, bytes(received)) == [plaintext.encoded for plaintext in plaintexts]


def _forward_and_close(name: str, source: socket.socket, sink: socket.socket) -> None:
    with source, sink:
        getattr(floor, name)(source, sink)


def _send_and_close(sink: socket.socket, frames: bytearray) -> None:
    sink.sendall(frames)
    sink.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("piece", [1, 3, 7, 8, 9, 100, 1000, 100_000])
def test_frames_are_counted_for_any_read_size(piece):
    plaintexts = encoding.make_plaintexts(encoding.encode_as_own, 40, 255)
    frames = bytes(encoding.seal_frames(KEY, 0, plaintexts, 30))
    counter = load.FrameCounter()
    for start in range(0, len(frames), piece):
        assert counter.whole < 30
        counter.feed(memoryview(counter.rest + frames[start : start + piece]))
    assert (counter.whole, counter.skip, counter.rest) == (30, 0, b"")


def test_verified_load_through_a_relay_passes():
    plaintexts = encoding.make_plaintexts(encoding.encode_as_released, 1024, 65535)
    with RelayProcess() as relay:
        two = open_tunnels(relay, 2)
        messages = tunnels.relay_series(relay, two, plaintexts, 40, verify=True)
        messages.run()
        for tunnel in two:
            tunnel.close()
    assert messages.cpu > 0
    assert 0 < messages.fairness <= 1


@pytest.mark.parametrize("change", ["nothing", "content", "order", "one too few"])
def test_check_of_a_verified_run_detects_changes(change):
    plaintexts = encoding.make_plaintexts(encoding.encode_as_own, 64, 255)[:5]
    near, far = established()
    sent = [plaintext.payload for plaintext in plaintexts]
    if change == "content":
        sent[2] = bytes(64)
    elif change == "order":
        sent[2:4] = sent[3], sent[2]
    elif change == "one too few":
        del sent[-1]
    for payload in sent:
        near.send(payload, 0.0)
    check = tunnels.checker(far, plaintexts, 5)
    if change == "nothing":
        check(near.data_to_send())
    else:
        with pytest.raises(ValueError, match=r"was changed|arrived"):
            check(near.data_to_send())


def test_targets_bound_figures_from_the_right_side():
    most = targets.Target("row", "ratio", 2.0)
    assert most.met(2.0) and not most.met(2.1) and most.met(3.9, 2.0) and not most.met(4.1, 2.0)
    least = targets.Target("row", "rate", 0.8, at_least=True)
    assert least.met(0.8) and not least.met(0.7) and least.met(0.4, 2.0) and not least.met(0.3, 2.0)


def test_only_missed_targets_are_reported():
    assert targets.missed([{"row": "64B", "ratio": 1.7}, {"row": "unknown", "ratio": 99.0}], 1.0) == []
    (line,) = targets.missed([{"row": "64B", "ratio": 2.5}], 1.0)
    assert line.startswith("64B: ratio is 2.5, the target is <= 1.8")


def test_canary_measures_round_trips_beside_bulk_traffic():
    with RelayProcess() as relay:
        tunnel, bulk = open_tunnels(relay, 2)
        with canary.Canary(tunnel) as measured, canary.BulkTraffic([bulk], 1 << 20):
            times = measured.best_round_trips(20, 2)
        tunnel.close()
        bulk.close()
    assert len(times) == 20
    assert times == sorted(times)
    assert times[0] > 0


def test_unknown_group_is_a_usage_error(capsys):
    assert bench_main(["nothing"]) == 2
    assert "unknown group 'nothing'; the groups are 64B, 1KiB," in capsys.readouterr().err


def test_page_shows_the_published_figures():
    run = json.loads(publish.FIGURES.read_text("utf-8"))
    page = (publish.DOCS / "performance.md").read_text("utf-8")
    assert publish.put_into_page(page, run) == page
    assert {target.row for target in targets.TARGETS} <= {row["row"] for row in run["rows"]}


def test_plot_shows_ratios_and_their_targets(tmp_path):
    pytest.importorskip("matplotlib")
    from bench import plot

    rows: list[Figures] = [
        {"row": "64B", "ratio": 1.7, "cpu_us": 6.0, "floor_us": 3.0},
        {"row": "16KiB", "ratio": 2.9},
    ]
    for name in ("a.svg", "b.svg"):
        plot.draw(rows, tmp_path / name)
    text = (tmp_path / "a.svg").read_text("utf-8")
    for shown in ("64B", "16KiB", "1.70 (&lt;= 1.8)", "2.90 (&lt;= 1.25)", "6.0 (original 350)"):
        assert f"{shown}</text>" in text
    assert text == (tmp_path / "b.svg").read_text("utf-8")
