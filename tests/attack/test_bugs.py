"""A bug in the relay ends one connection; a failure of the event loop ends the process."""

from __future__ import annotations

import pytest

from offset_common.wire.messages import InitRole
from tests.attack.conftest import StartAttack
from tests.attack.test_log import assert_no_secret
from tests.support.fault_injection import VICTIM, inject
from tests.support.swarm import Swarm

EXIT_SOFTWARE = 70

PLACES = [
    "offset_common.wire.messages:IncomingConnection.encode",
    "offset_common.channel.handshake:Handshake.receive_rand_nonce",
    "offset_common.channel.connection:Connection.receive_frame",
    "offset_common.relay.admission:Admission.authenticate",
    "offset_common.relay.registry:Registry.connect",
    "offset_common.relay.rendezvous:Rendezvous._connect",
    "offset_common.relay.sessions.tunnel:Tunnels.prepare",
    "offset_common.relay.connection:SocketConnection.write",
]
"""Methods of each layer that get an argument which refers to the victim's key."""

LOOP = "offset_common.relay.deadlines:Deadlines.take_expired"
"""A method that the event loop calls for no connection in particular."""


def visit_every_layer(swarm: Swarm) -> None:
    """Let the victim connect, send and receive, as far as it gets."""
    listener = swarm.listen()
    (victim,) = swarm.dial(1, [VICTIM])
    victim.on_proven = lambda peer: peer.init(InitRole.CONNECT, listener.keys.public_key)
    victim.start_handshake()
    if swarm.run(lambda: victim.ended or bool(listener.messages)) and not victim.ended:
        acceptor = swarm.accept(listener, VICTIM.public_key)
        for end in (victim, acceptor):
            if not end.ended:
                end.push(1000, 10)
    assert swarm.all_end([victim])


@pytest.mark.parametrize("place", PLACES)
def test_bug_ends_one_connection(start_attack: StartAttack, place: str) -> None:
    attack = start_attack(prefix=inject(place))
    visit_every_layer(attack.swarm())
    attack.check_canary()
    attack.relay.wait_for_line("PlantedError")
    assert attack.relay.state().figures["bugs"] >= 1
    assert attack.relay.stop() == 0
    assert_no_secret(attack.relay)


def test_failing_event_loop_ends_the_process(start_attack: StartAttack) -> None:
    attack = start_attack(prefix=inject(f"{LOOP}@5"), canary=False)
    swarm = attack.swarm()
    swarm.dial(5)
    for peer in swarm.peers:
        peer.start_handshake()
    swarm.all_end(swarm.peers)
    assert attack.relay.process.wait(10.0) == EXIT_SOFTWARE
    attack.relay.wait_for_line("PlantedError")
    assert_no_secret(attack.relay)
