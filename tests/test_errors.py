"""offset_common/errors.py: errors pass from one process to another, as from a process pool."""

from __future__ import annotations

import copy
import pickle

import pytest

from offset_common.channel.handshake import WrongPeerError
from offset_common.command_line import CommandLineError
from offset_common.errors import ConnectRefused, FileError, OffsetError, PeerError
from offset_common.wire.frames import FrameTooLargeError, OldPeerError


def named_layer() -> PeerError:
    error = PeerError("too long")
    error.name_layer("relay")
    return error


@pytest.mark.parametrize(
    "error",
    [
        OffsetError("a"),
        FileError("a.ident", "it is empty"),
        CommandLineError("a", "usage"),
        ConnectRefused("connect", "nobody listens"),
        WrongPeerError("another key", b"a", b"b"),
        FrameTooLargeError(5, 4),
        OldPeerError(),
        named_layer(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_can_be_pickled_and_copied(error: OffsetError) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert (str(other), vars(other)) == (str(error), vars(error))
