"""A relay for all the tests of a module."""

from tests.support.relay_process import relay, start_relay

__all__ = ["relay", "start_relay"]
