"""The sessions of a connection: one class for each state of its life (lifecycle.py)."""
