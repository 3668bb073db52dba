"""Test peers, processes and fixtures for tests that run the relay as a process.

`encoding.py` and `channel.py` are a second implementation of the protocol; `peer.py` drives it on a
blocking socket, `node.py` opens several such connections, `swarm.py` drives many in one thread
(`swarm_peer.py`). `process.py` and `relay_process.py` run programs and the relay, `fleet.py` several hosts;
`relay_log.py` reads the relay's log. `canary.py` measures how others are served. `fault_injection.py`
disturbs the relay, `cable.py` connections; `hosts.py` has marks of tests that need something of the machine.
`client.py` is for tests of the package's own client, `haproxy.py` for those of a balancer.
"""
