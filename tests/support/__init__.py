"""What the tests that see the relay from outside share.

`encoding.py` and `channel.py` are a second implementation of the protocol, `peer.py` drives it on a blocking
socket, `swarm.py` drives many connections in one thread. `relay_process.py` runs the relay, `relay_log.py` reads
its log. `canary.py` measures how others are served; `fault_injection.py` and `proxy.py` disturb.
"""
