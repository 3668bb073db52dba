"""What a stranger may do to a relay, while a canary checks that others are served.

`harness.py` has the relay, the canary and the swarms of attackers; each test file is one kind of attack.
Attackers that should not share the canary's address come from 127.0.0.2 and above.
"""

ATTACKER = "127.0.0.2"
BYSTANDER = "127.0.0.3"
