"""A soak: 200 simulated nodes use a relay for minutes, and the relay is afterwards as it was before."""
