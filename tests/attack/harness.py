"""A relay under attack, and the checks that must hold meanwhile."""

from __future__ import annotations

import re
import subprocess
from typing import Optional

from tests.support.canary import Canary, Report
from tests.support.relay_process import RelayProcess
from tests.support.swarm import Swarm

KIB = 1024
MIB = 1024 * KIB
MAX_MEMORY_GROWTH = 32 * MIB  # resident bytes, during an attack
SLOWEST_NEWCOMER = 5.0  # seconds; 0.3 on an idle machine
SOCKET_MEMORY = re.compile(r"skmem:\(r(\d+),.*?,w(\d+),")


class Attack:
    """A relay, the swarms that attack it, and the canary that watches how others are served.

    Args:
        relay: the relay.
    """

    def __init__(self, relay: RelayProcess) -> None:
        self.relay = relay
        self._memory_before = relay.memory
        self._swarms: list[Swarm] = []
        self._canary: Optional[Canary] = None

    def start_canary(self) -> None:
        """Start the canary; return when its tunnel exists and its first newcomers have been served."""
        self._canary = Canary(self.relay)

    def swarm(self, receive_buffer: Optional[int] = None) -> Swarm:
        """Return a new swarm, whose connections have a receive buffer of that size."""
        self._swarms.append(Swarm(self.relay.endpoint(), receive_buffer))
        return self._swarms[-1]

    def check_canary(self) -> Report:
        """End the canary, perhaps while attackers are still connected; check that others were served."""
        assert self._canary is not None
        canary, self._canary = self._canary, None
        report = canary.finish()
        print(f"\n  {report.figures}")
        log = "\n".join(self.relay.lines[-20:])
        assert report.newcomer_faults == [], log
        assert max(report.newcomers) < SLOWEST_NEWCOMER, sorted(report.newcomers)[-5:]
        assert not report.tunnel_fault, f"{report.tunnel_fault}\n{log}"
        assert report.memory - self._memory_before < MAX_MEMORY_GROWTH, report.figures
        return report

    def check(self) -> None:
        """Check that others were served, end the attack, and check that the relay stops cleanly."""
        if self._canary is not None:
            self.check_canary()
        for swarm in self._swarms:
            swarm.leave()
        self.relay.stop_cleanly()

    def close(self) -> None:
        """End every process and connection."""
        if self._canary is not None:
            self._canary.kill()
        for swarm in self._swarms:
            swarm.close()
        self.relay.kill()


def kernel_memory(port: int) -> int:
    """Return the bytes in the kernel's buffers of the connections of a listening port."""
    shown = subprocess.run(
        ["ss", "--no-header", "--tcp", "--memory", "--numeric", "sport", "=", f":{port}"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    # skmem:(r<bytes received>,rb<limit>,t<...>,tb<limit>,f<...>,w<bytes to send>,...)
    return sum(int(received) + int(unsent) for received, unsent in SOCKET_MEMORY.findall(shown))
