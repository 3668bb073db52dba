"""Attacks on a relay, while a canary checks that others are served.

`harness.py` has the relay, the canary and the swarms of attackers; each test file is one kind of attack.
Attackers that must not share the canary's address use 127.0.0.2 and above.
"""

ATTACKER = "127.0.0.2"
BYSTANDER = "127.0.0.3"
ACCOMPLICE = "127.0.0.4"
