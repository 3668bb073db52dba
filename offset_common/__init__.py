"""The Offset relay, its file tool and a node's side of the protocol, in plain Python."""

__version__ = "0.1.0"
