"""The start of a relay as the successor of another: an upgrade in place, as the new process sees it.

    old relay                          first new process          second new process
    SIGUSR2: starts it  -------------> forks  ------------------> reads its files, opens nothing twice
    <-- process id of the second one -- ends                      |
    <-- "ready" --------------------------------------------------+
    --> "go": from now on it accepts ----------------------------> serves

The first process ends so that the service manager, or init, adopts the second one. The second one must not be
the child of a relay that is about to end.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import MutableMapping
from pathlib import Path
from typing import Optional

from offset_common.errors import ServiceError, UsageError
from offset_common.service.sockets import OPTIONS, HeldSocket

VARIABLE = "OFFSET_RELAY_UPGRADE"
READY, GO, GO_AND_RELOAD = "ready", "go", "go and reload"
ANSWER_TIMEOUT = 45.0  # seconds; the old relay gives up first
_PROCESS_NAME = Path("/proc/self/comm")


class Predecessor:
    """The relay that started this process.

    Args:
        channel: the socket to that relay.
        sockets: its listening sockets.
    """

    def __init__(self, channel: socket.socket, sockets: list[HeldSocket]) -> None:
        self._channel = channel
        self.sockets = sockets

    def leave_parent(self) -> None:
        """Continue in a process that the service manager adopts. There must be no threads yet."""
        child = os.fork()
        if child:
            send_line(self._channel, str(child))
            os._exit(0)

    def take_over(self) -> bool:
        """Report that this process is ready, and wait until the old relay hands over.

        Returns:
            Whether to read the operator's files again, because they may have changed.

        Raises:
            ServiceError: the old relay has ended, or does not answer.
        """
        self._channel.settimeout(ANSWER_TIMEOUT)
        try:
            with self._channel, self._channel.makefile() as answers:
                send_line(self._channel, READY)
                answer = answers.readline().strip()
        except OSError:
            answer = ""
        if answer not in (GO, GO_AND_RELOAD):
            raise ServiceError(
                "the relay that started this one has ended or does not answer; start this one on its own"
            )
        return answer == GO_AND_RELOAD


def send_line(channel: socket.socket, line: str) -> None:
    """Send a line to the other process.

    Raises:
        OSError: it is gone.
    """
    channel.sendall(f"{line}\n".encode("ascii"))


def encode(channel: socket.socket, sockets: list[HeldSocket]) -> str:
    """Return the value of VARIABLE for a successor."""
    listed = [[each.option, each.address, each.sock.fileno()] for each in sockets]
    return json.dumps({"channel": channel.fileno(), "sockets": listed, "name": _process_name()})


def find_predecessor(environment: MutableMapping[str, str]) -> Optional[Predecessor]:
    """Return the relay that started this process, or None; remove the variable from the environment.

    Raises:
        UsageError: the variable does not come from a relay.
    """
    text = environment.pop(VARIABLE, None)
    if text is None:
        return None
    try:
        value = json.loads(text)
        channel = _open(value["channel"])
        sockets = [HeldSocket(option, address, _open(number)) for option, address, number in value["sockets"]]
        if any(each.option not in OPTIONS for each in sockets):
            raise ValueError
        _set_process_name(value.get("name", ""))  # older relays do not send it
    except (ValueError, TypeError, KeyError, OSError, OverflowError, RecursionError):
        raise UsageError(f"{VARIABLE} is for relays that start their successor; unset it") from None
    return Predecessor(channel, sockets)


def _process_name() -> str:
    """Return the name that ps shows, or an empty string if the system has none.

    A script that was started directly has its own name. A successor would have that of Python.
    """
    with contextlib.suppress(OSError):
        return _PROCESS_NAME.read_text("utf-8", "surrogateescape").rstrip("\n")
    return ""


def _set_process_name(name: str) -> None:
    if name:
        with contextlib.suppress(OSError):
            _PROCESS_NAME.write_text(name, "utf-8", "surrogateescape")


def _open(descriptor: int) -> socket.socket:
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    return sock
