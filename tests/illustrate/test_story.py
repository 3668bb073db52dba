"""A run is recorded, its keys are computed, and its frames are decrypted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offset_common.errors import FileError, OperatorError
from offset_common.illustrate.layers import ciphertext_start
from offset_common.illustrate.page import render
from offset_common.illustrate.recorder import BACK, THERE
from offset_common.illustrate.recording import (
    ACCEPTOR,
    CONNECTOR,
    LISTENER,
    RecordedFrame,
    Recording,
    encode_recording,
    load_recording,
)
from offset_common.illustrate.secrets import decrypt
from offset_common.illustrate.story import Story, tell
from offset_common.tools.frame_assembler import SENT
from offset_common.wire.messages import ChannelMessage
from tests.support.process import ROOT
from tests.support.relay_process import RelayProcess

OPENING = ["version", "ExchangeRandNonce", "ExchangeDh"]


def names(story: Story, connection: str, direction: str) -> list[str]:
    return [
        frame.name for frame in story.frames if (frame.connection, frame.direction) == (connection, direction)
    ]


def test_all_messages_of_the_roles_are_recorded(story: Story) -> None:
    tunnel = ["end-to-end ExchangeRandNonce", "end-to-end ExchangeDh", "end-to-end message"]
    assert names(story, LISTENER, SENT) == [*OPENING, "InitConnection listen", "keepAlive"]
    assert names(story, LISTENER, "received") == [*OPENING, "IncomingConnection"]
    assert names(story, CONNECTOR, SENT) == [*OPENING, "InitConnection connect", *tunnel]
    assert names(story, ACCEPTOR, SENT) == [*OPENING, "InitConnection accept", *tunnel]
    for connection in (CONNECTOR, ACCEPTOR):
        assert names(story, connection, "received") == [*OPENING, *tunnel]


def test_both_ends_read_what_the_relay_cannot(story: Story) -> None:
    texts = [
        (frame.connection, frame.layer.chain()[-1].data)
        for frame in story.frames
        if frame.name == "end-to-end message"
    ]
    assert texts == [(CONNECTOR, THERE), (ACCEPTOR, THERE), (ACCEPTOR, BACK), (CONNECTOR, BACK)]


def test_both_ends_compute_the_same_keys(story: Story) -> None:
    near, far = story.end_to_end[CONNECTOR], story.end_to_end[ACCEPTOR]
    assert (near.shared, near.sending, near.receiving) == (far.shared, far.receiving, far.sending)
    relays = [key for secrets in story.secrets.values() for key in (secrets.sending, secrets.receiving)]
    assert len({*relays, near.sending, near.receiving}) == 8


def test_an_inner_layer_is_where_the_outer_one_says(story: Story) -> None:
    for frame in story.frames:
        for layer in frame.layer.chain():
            if layer.inner is None:
                continue
            outer = layer.data
            if layer.key:
                start = ciphertext_start(layer)
                outer = outer[:start] + decrypt(layer.key, layer.data[start - 12 :]) + outer[-16:]
            found = [outer[at] if at is not None else 0 for at in layer.inner_at]
            assert bytes(found) == layer.inner.data


def test_a_forwarded_message_leads_to_its_other_frame(story: Story) -> None:
    tunnel = [frame for frame in story.frames if frame.tunnel is not None]
    assert len(tunnel) == 12
    for frame in tunnel:
        other = story.frames[frame.partner - 1]
        assert (other.partner, other.tunnel) == (frame.number, frame.tunnel)
        assert other.direction != frame.direction


def test_a_recording_gives_the_same_page_again(recording: Recording, page: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(encode_recording(recording))
    assert render(tell(load_recording(tmp_path / "run.json"))) == page


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"frames": 1}', "[" * 5000])
def test_another_file_is_not_a_recording(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(FileError, match="not a recording"):
        load_recording(tmp_path / "run.json")


@pytest.mark.parametrize(
    "change",
    [
        {"frames": []},
        {"connecting_node": "00"},
        {"exchanges": {}},
        {"frames": None},
        {"frames": [RecordedFrame(LISTENER, SENT, "zz")]},
    ],
)
def test_a_recording_that_does_not_fit_is_one_error(recording: Recording, change: dict[str, object]) -> None:
    with pytest.raises(OperatorError, match="record another one"):
        tell(replace(recording, **change))  # type: ignore[arg-type]


def test_a_changed_byte_does_not_decrypt(recording: Recording) -> None:
    frames = list(recording.frames)
    last = frames[-1]
    frames[-1] = replace(last, payload=last.payload[:-2] + ("00" if last.payload[-2:] != "00" else "01"))
    with pytest.raises(OperatorError, match="does not decrypt"):
        tell(replace(recording, frames=frames))


def test_the_page_stays_small_with_full_padding(story: Story) -> None:
    """Released relays pad each message with up to 64 KiB."""
    frames = list(story.recording.frames)
    for frame in story.frames:
        if frame.direction == SENT or not frame.layer.key:
            continue
        payload = bytes.fromhex(frames[frame.number - 1].payload)
        content = ChannelMessage.decode(decrypt(frame.layer.key, payload)).content
        padded = ChannelMessage(bytes(range(256)) * 250, content).encode()
        sealed = payload[:12] + ChaCha20Poly1305(frame.layer.key).encrypt(payload[:12], padded, None)
        frames[frame.number - 1] = replace(frames[frame.number - 1], payload=sealed.hex())
    page = render(tell(replace(story.recording, frames=frames)))
    assert "hello from the connector" in page
    assert len(page.encode()) < 1_000_000


def test_the_recorded_run_of_the_documentation_is_complete() -> None:
    story = tell(load_recording(ROOT / "docs" / "illustrated.json"))
    assert story.recording.date < "2100"
    assert len(story.frames) == 35
    assert "hello from the connector" in render(story)


def test_the_relay_logs_no_bug(relay: RelayProcess, recording: Recording) -> None:
    assert recording.frames
    assert relay.failures == []


def test_a_recording_is_small_and_has_only_text(recording: Recording) -> None:
    assert len(encode_recording(recording)) < 40_000
    assert json.loads(encode_recording(recording))["relay"] == recording.relay
