"""The options of an operator beside the limits: access, rates, volume, a configuration file."""
