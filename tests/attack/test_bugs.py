"""A bug in the relay ends one connection; a failure of the event loop ends the process."""

from __future__ import annotations

from tests.attack.conftest import StartAttack
from tests.attack.test_log import assert_no_secret
from tests.support.fault_injection import inject
from tests.support.process import PATIENCE

EXIT_SOFTWARE = 70


def test_failing_event_loop_ends_the_process(start_attack: StartAttack) -> None:
    # The event loop calls this method for no connection in particular.
    fault = "offset_common.relay.deadlines:Deadlines.take_expired@5"
    attack = start_attack(prefix=inject(fault), canary=False)
    swarm = attack.swarm()
    swarm.dial(5)
    for peer in swarm.peers:
        peer.start_handshake()
    swarm.all_end(swarm.peers)
    assert attack.relay.process.wait(PATIENCE) == EXIT_SOFTWARE
    attack.relay.wait_for_line("PlantedError")
    assert_no_secret(attack.relay)
