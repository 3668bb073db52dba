"""What a connection is for: one session class for each state of its life (lifecycle.py)."""
