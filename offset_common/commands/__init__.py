"""The commands of the scripts, which run once the requirements are met."""
