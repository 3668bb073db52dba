"""The listening sockets of a relay: its own, those that systemd passed, and those of its predecessor.

--laddr   its own are opened for the addresses; sockets from systemd take their place
--status  likewise, with sockets that the socket unit names `status`
--fleet-laddr  its own
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import NamedTuple

from offset_common.address import Address, parse_listen_address
from offset_common.option_values import naming
from offset_common.relay.addresses import show_address
from offset_common.relay.listening import listen_by_address
from offset_common.relay.log import log_event
from offset_common.relay.sockets import set_options

RELAY, STATUS, FLEET = OPTIONS = ("--laddr", "--status", "--fleet-laddr")
STATUS_NAME = "status"  # of a socket unit: FileDescriptorName=status


class HeldSocket(NamedTuple):
    """A listening socket, and the option that it serves.

    Args:
        option: one of OPTIONS.
        address: the address as given in the option; empty for a socket that systemd passed.
        sock: the socket.
    """

    option: str
    address: str
    sock: socket.socket


class ListeningSockets:
    """All listening sockets of this process.

    Args:
        passed: the sockets that the process was started with.
    """

    def __init__(self, passed: Sequence[HeldSocket]) -> None:
        self._unused = list(passed)
        self._held: list[HeldSocket] = []

    @property
    def held(self) -> list[HeldSocket]:
        """The sockets in use."""
        return list(self._held)

    def are_passed(self, option: str) -> bool:
        """Return whether systemd passed sockets that replace those of an option."""
        return bool(self._passed_for(option))

    def listen(
        self, option: str, addresses: Sequence[Address], socket_buffer: int = 0
    ) -> list[socket.socket]:
        """Return the sockets for an option.

        Args:
            option: one of OPTIONS.
            addresses: the option's value.
            socket_buffer: as for `set_options`.

        Raises:
            OperatorError: the relay cannot listen there.
        """
        found = self._passed_for(option)
        if found:
            for each in found:
                set_options(each.sock, socket_buffer)
            if addresses:
                shown = ",".join(show_address(each.sock.getsockname()) for each in found)
                unused = ",".join(map(str, addresses))
                log_event("option not used", option=option, value=unused, reason=f"systemd passed {shown}")
        else:
            inherited: dict[Address, list[socket.socket]] = {}
            for each in self._unused:
                if each.option == option:
                    inherited.setdefault(parse_listen_address(each.address), []).append(each.sock)
            with naming(option):
                by_address = listen_by_address(addresses, socket_buffer, inherited)
            found = [
                HeldSocket(option, str(address), sock)
                for address, sockets in by_address.items()
                for sock in sockets
            ]
        used = {each.sock for each in found}
        self._unused = [each for each in self._unused if each.sock not in used]
        self._held += found
        return [each.sock for each in found]

    def close_unused(self) -> None:
        """Close inherited sockets that no option uses."""
        for each in self._unused:
            log_event("address given up", address=show_address(each.sock.getsockname()))
            each.sock.close()
        self._unused.clear()

    def _passed_for(self, option: str) -> list[HeldSocket]:
        return [each for each in self._unused if each.option == option and not each.address]
