"""A soak: a simulation of 200 nodes uses a relay for minutes, and the relay is afterwards as it was before."""
