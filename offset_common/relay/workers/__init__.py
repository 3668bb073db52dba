"""Tunnels in other processes (--workers): optional, and loaded only if needed."""
