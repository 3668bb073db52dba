"""A listener: iteration, replacement, end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from offset_common.errors import ConnectionLost
from offset_common.identity import Identity
from tests.support.client import start_listening
from tests.support.process import PATIENCE


def test_close_ends_iteration(relay):
    listener = start_listening(relay, Identity.generate())
    with ThreadPoolExecutor() as pool:
        iterating = pool.submit(lambda: list(listener))
        listener.close()
        assert iterating.result(PATIENCE) == []


def test_newer_listener_ends_the_older(relay):
    node = Identity.generate()
    with (
        start_listening(relay, node) as older,
        start_listening(relay, node),
        pytest.raises(
            ConnectionLost, match="a proxy or router in between closes idle connections, or another"
        ),
    ):
        list(older)
