"""The roles of a connection: one session class for each state of its life (lifecycle.py)."""
