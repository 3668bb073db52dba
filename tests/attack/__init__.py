"""What a stranger may do to a relay, done to it, while somebody watches that the others are served.

`siege.py` has the relay and the watch beside it, `watch.py` is the watch, a process of its own,
`crowd.py` are the strangers. Each test file is one way to attack.
"""
