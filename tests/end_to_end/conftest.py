"""A relay as a process, and nodes that use it."""

from tests.support.relay_process import new_node, relay, start_relay

__all__ = ["new_node", "relay", "start_relay"]
