"""A relay as a process."""

from __future__ import annotations

from tests.support.relay_process import relay, start_relay

__all__ = ["relay", "start_relay"]
