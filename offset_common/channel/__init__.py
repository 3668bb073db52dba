"""One connection as a state machine: bytes and time in, bytes and events out; no sockets, no clock."""
