"""Layers, computations and values as HTML.

A piece of bytes is a <b> element. Its attribute data-k has the keys of annotate.py, the innermost last.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from offset_common.illustrate.annotate import Annotated, Span, annotate
from offset_common.illustrate.computations import Step, Value, decryption_step
from offset_common.illustrate.layers import TEXT, Layer, ciphertext_start
from offset_common.illustrate.regions import Region

MAX_SHOWN = 600  # bytes of one piece; of a longer one, the first and last bytes are shown
SHOWN_BYTES = 48
MAX_REPRODUCED = 4096  # bytes of an encrypted payload; up to this size, the page has a program for it

_COLOURS = {
    "length": "h0",
    "nonce": "h1",
    "tag": "h2",
    "pointer": "h3",
    "union": "h4",
    "ciphertext": "gy",
    "payload": "gy",
    "packing": "pk",
    "unused": "un",
}
_FIELD_COLOURS = {
    "version": "h0",
    "randNonce": "h5",
    "srcPublicKey": "h6",
    "optDestPublicKey": "h7",
    "publicKey": "h6",
    "dhPublicKey": "h8",
    "keySalt": "h9",
    "signature": "ha",
    "randPadding": "gy",
    "user": "hb",
    "message": "h7",
    TEXT: "h8",
}


class Names:
    """The keys of all pieces of the page, with what the bar shows for them."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.colours: dict[int, str] = {}  # the CSS class of each key
        self.keys: dict[str, list[int]] = {}
        self._numbers: dict[str, int] = {}

    def new_key(self, layer: Layer, region: Region) -> int:
        """Return a new key for a region."""
        key = len(self.keys) + 1
        self.keys[str(key)] = [self._number(text) for text in (region.name, region.note, layer.title)]
        self.colours[key] = _FIELD_COLOURS[region.name] if region.kind == "field" else _COLOURS[region.kind]
        return key

    def _number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]


def layers_html(outermost: Layer, names: Names, key_names: dict[bytes, str]) -> str:
    """Return all layers of a frame.

    Args:
        outermost: the frame.
        names: receives the keys of all pieces.
        key_names: the name of each key that decrypts something.
    """
    parts = []
    for each in annotate(outermost, names.new_key):
        parts.append(_layer(each, names))
        layer = each.layer
        if layer.key and layer.inner:
            payload = layer.data[ciphertext_start(layer) - 12 :]
            if len(payload) > MAX_REPRODUCED:
                parts.append(f"<p>Decrypted with {escape(key_names[layer.key])}.</p>")
                continue
            step = decryption_step(layer.key, payload, key_names[layer.key])
            parts.append(
                f'<details class="more"><summary>Decrypt it with {escape(key_names[layer.key])}</summary>'
                f"{step_html(step, single=True)}</details>"
            )
    return "".join(parts)


def message_html(layer: Layer, names: Names) -> str:
    """Return a message alone, with its words unfolded."""
    (annotated,) = annotate(layer, names.new_key)
    return _layer(annotated, names, unfolded=True)


def _layer(annotated: Annotated, names: Names, unfolded: bool = False) -> str:
    layer = annotated.layer
    sealed = " sealed" if layer.end_to_end else ""
    badge = '<span class="badge">only the two nodes can read this</span>' if layer.end_to_end else ""
    size = f"{len(layer.data)} bytes" + (f", {len(layer.words)} unpacked" if layer.words else "")
    return (
        f'<section class="layer{sealed}"><header><h4>{escape(layer.title)}</h4>'
        f'<span class="quiet">{size}</span>'
        f"<small>protocol.md, section {layer.section}</small>{badge}</header>"
        f'<p>{escape(layer.text)}</p><div class="bytes row">{_pieces(annotated.spans, names)}</div>'
        f"{_values(annotated)}{_words(annotated, names, unfolded)}</section>"
    )


def _pieces(spans: Iterable[Span], names: Names) -> str:
    """Return spans as HTML elements; the Tab key stops only at the first one of a row."""
    parts = []
    for index, span in enumerate(spans):
        # A payload that is not encrypted has the colours of the message in it.
        colour = names.colours[span.keys[-1] if span.region.kind == "payload" else span.keys[0]]
        keys = " ".join(map(str, span.keys))
        tab = -1 if index else 0
        parts.append(f'<b class={colour} data-k="{keys}" tabindex={tab}>{_hex(span.data)}</b> ')
    return "".join(parts)


def _hex(data: bytes) -> str:
    if len(data) <= MAX_SHOWN:
        return data.hex(" ")
    start, end = data[:SHOWN_BYTES], data[-SHOWN_BYTES:]
    return f"{start.hex(' ')} … {len(data) - 2 * SHOWN_BYTES} bytes … {end.hex(' ')}"


def _values(annotated: Annotated) -> str:
    """Return the values of the fields that no other layer shows, in their own byte order."""
    rows = []
    for field in annotated.layer.fields:
        if field.name in ("randPadding", "user", "message") or field.name not in annotated.field_keys:
            continue
        key = annotated.field_keys[field.name]
        text = field.value.hex(" ")
        if field.name == TEXT:
            text = escape(field.value.decode("utf-8", "replace"))
        piece = f'<b class={_FIELD_COLOURS[field.name]} data-k="{key}" tabindex=0>{text}</b>'
        rows.append(f'<dt>{field.name}</dt><dd class="row">{piece}</dd>')
    return f'<dl class="values">{"".join(rows)}</dl>' if rows else ""


def _words(annotated: Annotated, names: Names, unfolded: bool) -> str:
    """Return the unpacked words, a row each, with their meaning."""
    if not annotated.words:
        return ""
    table_size = sum(1 for word in annotated.words if word.region.name == "segment table")
    rows = []
    previous = None
    for word in annotated.words:
        if word.more:
            rows.append(f'<span class="gap">{word.more} more words of {escape(word.region.name)}</span>')
            continue
        number = "table" if word.region.name == "segment table" else str(word.number - table_size)
        what = ""
        if word.region is not previous:
            what = f"<b>{escape(word.region.name)}</b> {escape(word.region.note)}"
        previous = word.region
        rows.append(
            f'<span class="n">{number}</span><span class="row">{_pieces(word.spans, names)}</span>'
            f'<span class="what">{what}</span>'
        )
    summary = f"Unpacked: {len(annotated.layer.words) // 8} words of 8 bytes, with every pointer explained"
    state = " open" if unfolded else ""
    words = f'<div class="words">{"".join(rows)}</div>'
    return f'<details class="more"{state}><summary>{summary}</summary>{words}</details>'


def step_html(step: Step, single: bool = False) -> str:
    """Return one computation, with its inputs, its output and the program that reproduces it."""
    name, document, url = step.algorithm
    inputs = "".join(_value(each) for each in step.inputs)
    return (
        f'<div class="step{" single" if single else ""}"><h4>{escape(step.title)}</h4>'
        f"<p>{escape(step.text)}</p>"
        f'<p>{escape(name)}, <a href="{url}">{document}</a></p>'
        f'<dl>{inputs}</dl><dl class="out">{_value(step.output)}</dl>'
        f'<details class="more"><summary>Reproduce it with Python</summary>'
        f"{program_html(step.program, step.output.text)}</details></div>"
    )


def program_html(program: str, output: str) -> str:
    """Return a program, with the line that it prints."""
    return f'<pre class="program" data-output="{escape(output)}">{escape(program)}</pre>'


def _value(value: Value) -> str:
    source = escape(value.source)
    if value.frame:
        source += f', <a href="#frame-{value.frame}">frame {value.frame}</a>'
    small = f"<small>{source}</small>" if source else ""
    return f'<dt>{escape(value.name)}</dt><dd><span class="hex">{value.text}</span>{small}</dd>'
