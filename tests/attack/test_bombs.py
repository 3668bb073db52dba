"""Messages that are expensive to unpack."""

from __future__ import annotations

import pytest

from tests.attack import ATTACKER
from tests.attack.harness import Attack
from tests.support.relay_log import Reason
from tests.wire.layout import channel_message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "body"),
    [
        (120_000, b"\xfe\x01\x02\x03\x04\x05\x06\x07" * 120_000),
        (120_000, b"\x01\x01" * 120_000),
        (130_048, b"\x00\xff" * 508),
    ],
    ids=["slow words", "single bytes", "zero runs"],
)
def test_expensive_packing_ends_its_connection(attack: Attack, words: int, body: bytes) -> None:
    bomb = channel_message(body, 8 * words)
    swarm = attack.swarm()
    ends = [near for near, _ in swarm.tunnels(40, ATTACKER)]
    for end in ends:
        assert end.channel is not None
        end.send_frame(end.channel.sending.seal(bomb))
    assert swarm.all_end(ends)
    attack.relay.wait_for_end(role="tunnel", reason=Reason.PROTOCOL_ERROR)
    attack.check()
