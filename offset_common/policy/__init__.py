"""The operator's options besides the limits: access, rates, volumes and a configuration file."""
