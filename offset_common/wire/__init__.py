"""Bytes to values and back: no state, no sockets, no clock."""
