"""Give every named piece of a frame a key, so that a page can highlight it in all layers.

A byte of an outer layer has several keys: the key of its own region, and those of the inner regions that it
carries, the innermost last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from offset_common.illustrate.layers import Layer
from offset_common.illustrate.regions import Region
from offset_common.wire.packing import WORD_SIZE

Keys = tuple[int, ...]


@dataclass(frozen=True)
class Span:
    """Successive bytes with the same keys.

    Args:
        data: the bytes.
        keys: their keys, from the outermost to the innermost.
        region: what the bytes are in this layer.
    """

    data: bytes
    keys: Keys
    region: Region


@dataclass(frozen=True)
class Word:
    """Unpacked words that are shown in one row.

    Args:
        number: the number of the first word, counted from the start of the message.
        spans: the spans of the first word.
        region: the region that the word starts with.
        more: how many further words of the same region are omitted.
    """

    number: int
    spans: list[Span]
    region: Region
    more: int = 0


@dataclass(frozen=True)
class Annotated:
    """A layer with its keys.

    Args:
        layer: the layer.
        spans: its bytes.
        words: its unpacked words; empty for a layer that is not a message.
        field_keys: the keys of its fields, by name.
    """

    layer: Layer
    spans: list[Span]
    words: list[Word]
    field_keys: dict[str, int]


SHOWN_WORDS = 8  # words of one region; of a longer region, only the first and last are shown


def annotate(outermost: Layer, new_key: Callable[[Layer, Region], int]) -> list[Annotated]:
    """Return the layers of a frame, outermost first, with their keys.

    Args:
        outermost: the frame.
        new_key: returns a new key for a region of a layer.
    """
    annotated: list[Annotated] = []
    inner_keys: list[Keys] = []
    for layer in reversed(outermost.chain()):
        by_region = _region_keys(layer, new_key)
        own = [by_region[id(region)] for region in layer.regions for _ in range(region.start, region.end)]
        keys: list[Keys] = [(key,) for key in own]
        for position, inside in zip(layer.inner_at, inner_keys):
            if position is not None:
                keys[position] = (own[position], *inside)
        fields = {
            region.name: by_region[id(region)]
            for region in layer.word_regions or layer.regions
            if region.kind == "field"
        }
        spans = _spans(layer.data, keys, layer.regions)
        annotated.append(Annotated(layer, spans, _words(layer, keys, by_region), fields))
        inner_keys = keys
    return annotated[::-1]


def _region_keys(layer: Layer, new_key: Callable[[Layer, Region], int]) -> dict[int, int]:
    """Return the key of each region by id. Regions with the same name share one, except tags and counts."""
    keys: dict[int, int] = {}
    by_name: dict[str, int] = {}
    for region in [*layer.regions, *layer.word_regions]:
        if region.kind in ("packing", "unused"):
            keys[id(region)] = new_key(layer, region)
        else:
            if region.name not in by_name:
                by_name[region.name] = new_key(layer, region)
            keys[id(region)] = by_name[region.name]
    return keys


def _spans(data: bytes, keys: list[Keys], regions: list[Region], offset: int = 0) -> list[Span]:
    """Cut bytes where their keys or their region change; `offset` is the position of the first byte."""
    spans: list[Span] = []
    for region in regions:
        start = max(region.start - offset, 0)
        end = min(region.end - offset, len(data))
        at = start
        while at < end:
            stop = at + 1
            while stop < end and keys[stop] == keys[at]:
                stop += 1
            spans.append(Span(data[at:stop], keys[at], region))
            at = stop
    return spans


def _words(layer: Layer, data_keys: list[Keys], by_region: dict[int, int]) -> list[Word]:
    """Return the unpacked words; the middle of a long field is omitted."""
    keys: list[Keys] = []
    for region in layer.word_regions:
        for position in range(region.start, region.end):
            origin = layer.word_origin[position]
            keys.append((by_region[id(region)],) if origin is None else data_keys[origin])
    rows: list[Word] = []
    for number in range(len(layer.words) // WORD_SIZE):
        start = number * WORD_SIZE
        region = next(each for each in layer.word_regions if each.start <= start < each.end)
        whole = (region.end - region.start) // WORD_SIZE
        index = (start - region.start) // WORD_SIZE
        if whole > SHOWN_WORDS and 0 < index < whole - 1:
            if index == 1:
                rows.append(Word(number, [], region, whole - 2))
            continue
        end = start + WORD_SIZE
        spans = _spans(layer.words[start:end], keys[start:end], layer.word_regions, start)
        rows.append(Word(number, spans, region))
    return rows
