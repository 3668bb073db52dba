"""A listener, from its beginning to its end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from offset_common.errors import ConnectionLost
from offset_common.identity import Identity
from tests.client.relays import PATIENCE, connect_to


def test_a_closed_listener_ends_its_iteration(running):
    listener = running.listen(Identity.generate())
    with ThreadPoolExecutor() as pool:
        iterating = pool.submit(lambda: list(listener))
        listener.close()
        assert iterating.result(PATIENCE) == []


def test_a_newer_listener_for_the_same_key_ends_the_older_one_with_an_error(running):
    node = Identity.generate()
    with running.listen(node) as older, running.listen(node), pytest.raises(ConnectionLost, match="another"):
        list(older)


def test_tunnels_live_on_when_their_listener_is_closed(running):
    node = Identity.generate()
    with running.listen(node) as listener:
        connected = connect_to(running, node)
        accepted = listener.receive(PATIENCE).accept()
        accepted.send(b"joined")
        assert connected.receive(PATIENCE) == b"joined"
    with connected, accepted:
        accepted.send(b"still here")
        assert connected.receive(PATIENCE) == b"still here"
