"""offset_common.client: the public interface is documented; mypy checks that it is typed."""

from __future__ import annotations

import pytest

from offset_common import client


@pytest.mark.parametrize("name", client.__all__)
def test_public_name_is_documented(name: str) -> None:
    assert getattr(client, name).__doc__
