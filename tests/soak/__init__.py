"""A soak: 200 simulated nodes use a relay for minutes, and afterwards the relay is as it was before."""
