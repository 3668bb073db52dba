"""Access files, PROXY headers, rates, volume and configuration files."""
