"""Relays as processes, for the tests that need one."""

from __future__ import annotations

from tests.support.relay_process import start_relay

__all__ = ["start_relay"]
