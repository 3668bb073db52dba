"""The status server of a relay."""
