"""The page of a story: one self-contained HTML file.

page.html has the prose, the style and the script. At comments such as <!--frames-->, this module inserts the
parts that depend on the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from importlib import resources
from itertools import groupby

from offset_common.constants import FRAME_LENGTH_SIZE, KEEPALIVE_INTERVAL, NONCE_SIZE, TAG_SIZE
from offset_common.identity import encode_key
from offset_common.illustrate.computations import Side, handshake_steps
from offset_common.illustrate.markup import Names, layers_html, message_html, program_html, step_html
from offset_common.illustrate.recording import ACCEPTOR, CONNECTOR, LISTENER
from offset_common.illustrate.story import END_TO_END, FrameStory, Story
from offset_common.tools.frame_assembler import SENT

PAGE = resources.files("offset_common.illustrate").joinpath("page.html")

_PHASES = {
    LISTENER: "The listener connects to the relay, and listens",
    CONNECTOR: "The connector connects, and asks for the listener's key",
    ACCEPTOR: "The listening node accepts, on a second connection",
}
_ANNOUNCED = "The relay announces the connect"
_TUNNEL = "The tunnel: one node receives what the other sends"
_KEEPALIVE = f"After {KEEPALIVE_INTERVAL:.0f} seconds without another message, on any connection"
_DIAGRAM_NAMES = {
    "InitConnection listen": "listen",
    "InitConnection connect": "connect",
    "InitConnection accept": "accept",
}
_HANDSHAKE_CONTENT = {
    "ExchangeRandNonce": "a public key and a nonce",
    "ExchangeDh": "half of a key exchange, and a signature",
}
_UNPACK = """\
packed = bytes.fromhex("{packed}")
words, at = b"", 0
while at < len(packed):
    tag, at = packed[at], at + 1
    for bit in range(8):
        words, at = (words + packed[at : at + 1], at + 1) if tag >> bit & 1 else (words + bytes(1), at)
    if tag in (0x00, 0xFF):
        size, at = packed[at] * 8, at + 1
        words, at = (words + packed[at : at + size], at + size) if tag else (words + bytes(size), at)
print(words.hex(" ", 8))
"""


def render(story: Story) -> str:
    """Return the page."""
    names = Names()
    example = next(frame for frame in story.frames if frame.name == "InitConnection connect").layer.chain()[
        -1
    ]
    filling = {
        "date": escape(story.recording.date),
        "relay": encode_key(bytes.fromhex(story.recording.relay)),
        "sequence": "".join(_sequence(story)),
        "frames": "".join(_frames(story, names)),
        "keys": "".join(_key_groups(story)),
        "ends": "".join(_ends(story)),
        "endsteps": "".join(_end_groups(story)),
        "journey": "".join(_journey(story)),
        "seen": "".join(_seen_rows(story)),
        "message": message_html(example, names),
        "program": program_html(_UNPACK.format(packed=example.data.hex()), example.words.hex(" ", 8)),
    }
    page = PAGE.read_text("utf-8")
    for place, text in filling.items():
        page = page.replace(f"<!--{place}-->", text)
    return page.replace("/*texts*/[]", _script(names.texts)).replace("/*keys*/{}", _script(names.keys))


def _script(value: object) -> str:
    """Return a value for a script element; nothing in the value can end the element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


# The sequence diagram.


def _sequence(story: Story) -> Iterator[str]:
    for phase, frames in groupby(story.frames, _phase):
        yield f'<div class="phase"><span>{escape(phase)}</span></div>\n'
        yield from map(_arrow, frames)


def _phase(frame: FrameStory) -> str:
    if frame.name == "IncomingConnection":
        return _ANNOUNCED
    if frame.name == "keepAlive":
        return _KEEPALIVE
    # The connector may send before its connect is accepted.
    early = frame.connection == CONNECTOR and frame.name == f"{END_TO_END}ExchangeRandNonce"
    if frame.tunnel is not None and not (early and frame.direction == SENT):
        return _TUNNEL
    return _PHASES[frame.connection]


def _arrow(frame: FrameStory) -> str:
    # The relay is to the right of the connector, and to the left of the others.
    right = (frame.direction == SENT) is (frame.connection == CONNECTOR)
    kinds = [frame.connection, "right" if right else "left"]
    kinds += ["plain"] if not frame.layer.key else ["tunnel"] if frame.tunnel is not None else []
    ends = (frame.connection, "relay") if frame.direction == SENT else ("relay", frame.connection)
    label = _DIAGRAM_NAMES.get(frame.name, frame.name.replace(END_TO_END, ""))
    return (
        f'<a class="arrow {" ".join(kinds)}" href="#frame-{frame.number}" '
        f'aria-label="frame {frame.number}: {" to ".join(ends)}: {escape(frame.name)}">'
        f"<span><em>{escape(label)}</em></span><i></i></a>\n"
    )


# The frames.


def _frames(story: Story, names: Names) -> Iterator[str]:
    key_names = _key_names(story)
    for phase, frames in groupby(story.frames, _phase):
        yield f"<h3>{escape(phase)}</h3>\n"
        for frame in frames:
            yield _frame(frame, names, key_names)


def _frame(frame: FrameStory, names: Names, key_names: dict[bytes, str]) -> str:
    partner = ""
    if frame.partner:
        verb = "The relay forwards it as" if frame.direction == SENT else "The other node sent it as"
        partner = f'<p>{verb} <a href="#frame-{frame.partner}">frame {frame.partner}</a>.</p>'
    node, relay = escape(frame.connection), "<b>relay</b>"
    way = f"{node} → {relay}" if frame.direction == SENT else f"{relay} → {node}"
    return (
        f'<details class="frame" id="frame-{frame.number}"><summary>'
        f'<span class="number">{frame.number}</span>'
        f'<span><b>{escape(frame.name)}</b> <span class="way">{way}</span></span>'
        f'<span class="size">{len(frame.layer.data)} bytes</span><p>{escape(frame.text)}</p></summary>\n'
        f'<div class="layers">{partner}{layers_html(frame.layer, names, key_names)}</div></details>\n'
    )


def _key_names(story: Story) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for connection, secrets in story.secrets.items():
        found[secrets.sending] = f"the {connection}'s sending key"
        found[secrets.receiving] = f"the {connection}'s receiving key"
    for connection, secrets in story.end_to_end.items():
        found[secrets.sending] = f"the {connection}'s end-to-end sending key, which the relay does not have"
    return found


# The keys.


def _key_groups(story: Story) -> Iterator[str]:
    for connection in (LISTENER, CONNECTOR, ACCEPTOR):
        title = f"The {connection} and the relay: from random bytes to two keys"
        yield _group(title, _side(story, connection, end_to_end=False))


def _end_groups(story: Story) -> Iterator[str]:
    for connection in story.end_to_end:
        yield _group(f"The six steps at the {connection}", _side(story, connection, end_to_end=True))


def _group(title: str, side: Side) -> str:
    steps = "".join(map(step_html, handshake_steps(side)))
    return f'<details class="group"><summary>{title}</summary><div class="steps">{steps}</div></details>\n'


def _side(story: Story, connection: str, end_to_end: bool) -> Side:
    secrets = (story.end_to_end if end_to_end else story.secrets)[connection]
    numbers = {
        (frame.name, frame.direction == SENT): frame.number
        for frame in story.frames
        if frame.connection == connection
    }
    prefix = END_TO_END if end_to_end else ""
    return Side(
        secrets,
        "the other node" if end_to_end else "the relay",
        sent_dh=numbers[f"{prefix}ExchangeDh", True],
        peer_nonce=numbers[f"{prefix}ExchangeRandNonce", False],
        peer_dh=numbers[f"{prefix}ExchangeDh", False],
    )


def _ends(story: Story) -> Iterator[str]:
    """Yield the keys of both ends; the same key has the same colour at both."""
    for connection, secrets in story.end_to_end.items():
        own, other = ("h6", "h5") if connection == CONNECTOR else ("h5", "h6")
        values = (
            ("shared secret", secrets.shared, "h8"),
            ("sending key", secrets.sending, own),
            ("receiving key", secrets.receiving, other),
        )
        lines = "".join(
            f'<p>{name}<br><span class="hex {colour}">{value.hex()}</span></p>'
            for name, value, colour in values
        )
        yield f"<div><h3>At the {connection}</h3>{lines}</div>"


# The view of the relay.


def _journey(story: Story) -> Iterator[str]:
    """Yield the steps in the journey of the first message that the relay can't read."""
    sent = next(frame for frame in story.frames if frame.name == f"{END_TO_END}message")
    received = story.frames[sent.partner - 1]
    message = sent.tunnel or b""
    yield _station(sent.connection, "says", [("h8", escape(_text(sent)))], "node")
    yield _station(sent.connection, f"sends {_link(sent)}", [("gy", _ciphertext(sent))], "node")
    sealed = [
        ("h1", message[:NONCE_SIZE].hex(" ")),
        ("gy", _shortened(message[NONCE_SIZE:-TAG_SIZE])),
        ("h2", message[-TAG_SIZE:].hex(" ")),
    ]
    yield _station("relay", "decrypts it, and sees", sealed, "relay")
    yield _station("relay", f"sends {_link(received)}", [("gy", _ciphertext(received))], "relay")
    yield _station(
        received.connection, "decrypts it twice, and reads", [("h8", escape(_text(received)))], "node"
    )


def _station(who: str, does: str, pieces: list[tuple[str, str]], kind: str) -> str:
    shown = " ".join(f"<b class={colour}>{text}</b>" for colour, text in pieces)
    actor = f"<strong>The {escape(who)}</strong>"
    return f'<li class="{kind}">{actor} {does}<div class="bytes row">{shown}</div></li>\n'


def _link(frame: FrameStory) -> str:
    return f'<a href="#frame-{frame.number}">frame {frame.number}</a>, with the ciphertext'


def _ciphertext(frame: FrameStory) -> str:
    return _shortened(frame.layer.data[FRAME_LENGTH_SIZE + NONCE_SIZE : -TAG_SIZE])


def _text(frame: FrameStory) -> str:
    return frame.layer.chain()[-1].data.decode("utf-8", "replace")


def _shortened(data: bytes) -> str:
    """Return the first and last bytes, in hexadecimal."""
    return f"{data[:20].hex(' ')} … {data[-8:].hex(' ')}"


def _seen_rows(story: Story) -> Iterator[str]:
    for frame in story.frames:
        if frame.tunnel is None or frame.direction != SENT:
            continue
        innermost = frame.layer.chain()[-1]
        sealed = innermost.end_to_end
        known = _text(frame) if sealed else _HANDSHAKE_CONTENT[innermost.title]
        seen = "nonce, ciphertext and tag" if sealed else "the same"
        yield (
            f'<tr><td><a href="#frame-{frame.number}">{frame.number}</a> → '
            f'<a href="#frame-{frame.partner}">{frame.partner}</a></td>'
            f"<td>{escape(frame.name.replace(END_TO_END, ''))}, {len(frame.tunnel)} bytes, "
            f"from the {frame.connection}</td><td>{escape(known)}</td>"
            f'<td>{seen}<br><span class="hex">{frame.tunnel[:20].hex(" ")} …</span></td></tr>\n'
        )
