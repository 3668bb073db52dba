"""Identities and tickets: a value or FileError; a value is written, and read again as the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offset_common.errors import FileError
from offset_common.identity import Identity, KeyForm, PrivateKey, encode_private_key, load_identity
from offset_common.tickets import AppTicket, IndexTicket, NodeDatabase, NodeEntry, NodeTicket, RelayTicket
from tests.fuzz import vectors

MAX_SIZE = 2048

KINDS: tuple[Any, ...] = (AppTicket, IndexTicket, NodeDatabase, NodeEntry, NodeTicket, RelayTicket)

_folder = tempfile.TemporaryDirectory(prefix="offset-fuzz-")
_path = Path(_folder.name) / "file"


def seeds() -> Iterator[bytes]:
    """Files of the original tools, and JSON that is none of them."""
    yield from vectors.files()
    yield from (_identity_in(form) for form in KeyForm)
    yield from (b"", b"\xef\xbb\xbf{}", b"[" * 2000, b'{"address": NaN}', b'{"a": 1, "a": 2}', b"1" * 2000)


def _identity_in(form: KeyForm) -> bytes:
    """Return an identity file with a private key in a form."""
    return f'{{"privateKey": "{encode_private_key(PrivateKey(bytes(32), form))}"}}'.encode()


def run(data: bytes) -> None:
    """Read the bytes as each kind of file."""
    _path.write_bytes(data)
    try:
        seed = load_identity(_path).seed
    except FileError:
        pass
    else:
        texts = [encode_private_key(PrivateKey(seed, form)).encode() for form in KeyForm]
        assert any(text in data for text in texts) or b"\\" in data
        assert isinstance(Identity.from_seed(seed), Identity)
    for kind in KINDS:
        try:
            value = kind.load(_path)
        except FileError:
            continue
        assert kind.from_json(value.to_json()) == value
