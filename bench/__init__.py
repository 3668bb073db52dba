"""The benchmark: what the relay costs, compared with the minimum for the same bytes, in one run."""
