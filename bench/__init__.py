"""The benchmark: what the relay costs, beside what the same bytes cost at the least, in one run."""
