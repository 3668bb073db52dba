"""Upgrade in place, as the old relay sees it: it starts its successor and waits until the successor is ready.

predecessor.py describes the conversation. Until the successor reports that it is ready, nothing changes: if
it ends or takes too long, it is killed, and the old relay continues.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Callable, Optional

from offset_common.relay.event_loop import READ, EventLoop
from offset_common.relay.log import log_event
from offset_common.service.predecessor import GO, GO_AND_RELOAD, READY, VARIABLE, encode, send_line
from offset_common.service.sockets import ListeningSockets

READY_TIMEOUT = 30.0  # seconds
EXIT_TIMEOUT = 1.0  # seconds to wait for the end of a process that closed its channel or was killed


class Upgrade:
    """Starts successors of this process, one at a time.

    Args:
        loop: the event loop.
        sockets: the listening sockets, which the successor inherits.
        variables: more variables for its environment.
        hand_over: called with its process id once it is ready, just before it begins to serve.
        upgraded: called once it serves.
    """

    def __init__(
        self,
        loop: EventLoop,
        sockets: ListeningSockets,
        variables: Mapping[str, str],
        hand_over: Callable[[int], None],
        upgraded: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._variables = variables
        self._hand_over = hand_over
        self._upgraded = upgraded
        self._process: Optional[subprocess.Popen[bytes]] = None  # the first new process
        self._channel: Optional[socket.socket] = None
        self._received = b""
        self._successor: Optional[int] = None  # the id of the second one
        self._reload = False

    @property
    def under_way(self) -> bool:
        """Whether a successor is starting."""
        return self._channel is not None

    def begin(self) -> None:
        """Start a successor; log the reason if that is impossible."""
        if os.getpid() == 1:
            report_obstacle(
                "this is process 1 of a container, which ends with it; restart the container instead"
            )
        elif not sys.executable:
            report_obstacle("the path of the Python interpreter is unknown; restart the relay instead")
        else:
            try:
                self._start()
            except OSError as error:
                report_obstacle(f"no new process: {error.strerror or error}")

    def reload_later(self) -> None:
        """Tell the successor to read its files again: it may have read them before they changed."""
        self._reload = True

    def cancel(self, reason: str) -> None:
        """Kill the successor before it serves, and continue."""
        if self._channel is None:
            return
        if self._process is not None:
            self._process.kill()
        # While it holds its end of the channel it is alive, and no other process has its id.
        if self._successor is not None and not self._has_ended(self._channel):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._successor, signal.SIGKILL)
        self._clean_up()
        report_obstacle(reason)

    def on_ready(self, events: int) -> None:
        """Handle what the successor reports."""
        assert self._channel is not None
        try:
            data = self._channel.recv(1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            if line.isdigit():
                self._successor = int(line)
            elif line == READY.encode() and self._successor is not None:
                self._switch(self._successor)
                return
        if not data:
            self._ended()

    def on_deadline(self) -> None:
        """Cancel the upgrade."""
        self.cancel(f"the new process was not ready within {READY_TIMEOUT:g} s")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            held = self._sockets.held
            try:
                self._process = subprocess.Popen(
                    [sys.executable, *_arguments()],
                    env={**os.environ, **self._variables, VARIABLE: encode(theirs, held)},
                    pass_fds=[theirs.fileno(), *(each.sock.fileno() for each in held)],
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._channel, self._received, self._reload = ours, b"", False
        self._loop.register(ours, READ, self)
        self._loop.deadlines.schedule(self, self._loop.now + READY_TIMEOUT)
        log_event("upgrade started")

    def _switch(self, successor: int) -> None:
        assert self._channel is not None
        self._hand_over(successor)
        try:
            send_line(self._channel, GO_AND_RELOAD if self._reload else GO)
        except OSError:
            self._ended()
            return
        self._clean_up()
        log_event("upgraded", pid=successor)
        self._upgraded()

    @staticmethod
    def _has_ended(channel: socket.socket) -> bool:
        """Return whether the other end of a channel is closed; drop what it sent."""
        try:
            while channel.recv(1024):
                pass
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def _ended(self) -> None:
        status = self._clean_up()
        how = f" with status {status}" if status else ""
        report_obstacle(f"the new process ended{how} before it was ready; it logs why")

    def _clean_up(self) -> Optional[int]:
        """Forget the successor; return the status of the first process."""
        assert self._channel is not None and self._process is not None
        self._loop.unregister(self._channel)
        self._loop.deadlines.cancel(self)
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_TIMEOUT)
        status = self._process.returncode
        self._channel, self._process, self._successor = None, None, None
        return status


def report_obstacle(reason: str) -> None:
    """Log why there is no upgrade."""
    log_event("not upgraded", logging.WARNING, collapse="upgrade", reason=reason)


def _arguments() -> list[str]:
    """Return the command line of this process, without the interpreter."""
    if sys.version_info >= (3, 10):
        return sys.orig_argv[1:]
    return sys.argv
