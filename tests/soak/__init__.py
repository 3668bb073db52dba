"""A soak: hundreds of nodes that do everything nodes do for minutes, and a relay that is afterwards as it was before."""
