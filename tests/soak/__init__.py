"""A soak: 200 nodes do all that nodes do, for minutes, and the relay is afterwards as it was before."""
