"""What an operator may ask of a relay beside its limits: access, rates, volume, a configuration file."""
