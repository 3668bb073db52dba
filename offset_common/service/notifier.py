"""Messages to a service manager such as systemd: datagrams to the Unix socket that NOTIFY_SOCKET names.

Nothing here waits: a message that the service manager does not accept at once is sent again later.

Source: sd_notify(3) and sd_watchdog_enabled(3) of systemd.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections import deque
from collections.abc import MutableMapping
from typing import Optional

from offset_common.relay.log import log_event

MAX_UNSENT = 16  # messages
_BUSY = frozenset({errno.EAGAIN, errno.ENOBUFS})


class Notifier:
    """Sends messages to the service manager, if there is one.

    It removes the variables from the environment, so that no child process takes them for its own.

    Args:
        environment: the environment of the process.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        self.watchdog = _watchdog(environment)
        self.variables: dict[str, str] = {}
        self._unsent: deque[bytes] = deque(maxlen=MAX_UNSENT)
        self._sock: Optional[socket.socket] = None
        self._fault = ""  # not logged yet
        if address[:1] in ("/", "@"):
            self.variables["NOTIFY_SOCKET"] = address
            if self.watchdog is not None:
                self.variables["WATCHDOG_USEC"] = str(round(self.watchdog * 1_000_000))
            self._address = os.fsencode(address if address[0] == "/" else "\0" + address[1:])
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sock.setblocking(False)
        elif address:
            self._fault = "NOTIFY_SOCKET is neither a path nor an abstract name with @"

    @property
    def enabled(self) -> bool:
        """Whether there is a service manager."""
        return self._sock is not None

    @property
    def has_unsent(self) -> bool:
        """Whether `flush` has something to do."""
        return bool(self._unsent)

    def send(self, *fields: str) -> None:
        """Send one message.

        Args:
            fields: the lines of the message, such as "READY=1".
        """
        if self._sock is not None:
            self._unsent.append("\n".join(fields).encode("utf-8", "replace"))
        self.flush()

    def flush(self) -> None:
        """Send the messages that the service manager did not accept before."""
        while self._unsent and self._sock is not None:
            try:
                self._sock.sendto(self._unsent[0], self._address)
            except OSError as error:
                if error.errno in _BUSY:
                    return
                self._fault = error.strerror or str(error)
                self.close()
            else:
                self._unsent.popleft()
        if self._fault:
            log_event("service manager not notified", logging.WARNING, reason=self._fault)
            self._fault = ""

    def close(self) -> None:
        """Close the socket and discard unsent messages."""
        self._unsent.clear()
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def _watchdog(environment: MutableMapping[str, str]) -> Optional[float]:
    """Return the seconds within which the service manager expects each watchdog message, or None."""
    microseconds = environment.pop("WATCHDOG_USEC", "")
    process = environment.pop("WATCHDOG_PID", "")
    is_number = microseconds.isascii() and microseconds.isdigit() and len(microseconds) < 20
    if not is_number or int(microseconds) == 0 or process not in ("", str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000
