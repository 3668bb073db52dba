"""More than one host behind one name: a directory of listeners, and connections between hosts (--fleet)."""
