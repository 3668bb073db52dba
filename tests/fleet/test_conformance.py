"""The tests of roles and tunnels, with every connection sent to a random host of three."""

from __future__ import annotations

import pytest

from tests.end_to_end.test_roles import *  # noqa: F403
from tests.end_to_end.test_tunnels import *  # noqa: F403

pytestmark: list[pytest.MarkDecorator] = []  # type: ignore[no-redef]  # not also with the small relay
