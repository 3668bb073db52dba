"""The origin of this process: an operator, a service manager, or an older relay that it replaces."""

from __future__ import annotations

from collections.abc import MutableMapping

from offset_common.service.activation import take_passed_sockets
from offset_common.service.notifier import Notifier
from offset_common.service.predecessor import find_predecessor
from offset_common.service.sockets import RELAY, STATUS, STATUS_NAME, HeldSocket, ListeningSockets


class Origin:
    """The start of this process, as its environment describes it.

    The variables are removed from it. If an older relay started this process, the program continues in a
    process that is not a child of that relay.

    Args:
        environment: the environment of the process.

    Raises:
        UsageError: a variable is malformed, or a passed descriptor is not a listening TCP socket.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self.notifier = Notifier(environment)
        activated = [
            HeldSocket(STATUS if name == STATUS_NAME else RELAY, "", sock)
            for name, sock in take_passed_sockets(environment)
        ]
        self.predecessor = find_predecessor(environment)
        if self.predecessor is not None:
            self.predecessor.leave_parent()
            activated = self.predecessor.sockets
        self.sockets = ListeningSockets(activated)
