"""Tunnels in other processes (--workers): optional, and unknown to the rest of the relay."""
