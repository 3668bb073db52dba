"""A worker process: it forwards for the tunnels that the front process gives it, and for nothing else.

It reports to the front process in JSON datagrams: the end of each connection, how much it forwarded
lately, and its bugs. When the front process is gone, so is the worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import traceback
from collections import deque
from typing import Any, Optional

from offset_common.relay.forwarding import Tunnels
from offset_common.relay.handover import (
    End,
    connection_of,
    decode_pair,
    receive_with_sockets,
)
from offset_common.relay.host import Host
from offset_common.relay.link import Link
from offset_common.relay.loop import READ, Loop
from offset_common.relay.memory import give_back_large_blocks
from offset_common.relay.reasons import CloseReason

REPORT_INTERVAL = 1.0  # seconds between reports of how much was forwarded
SIGNALS_OF_THE_FRONT = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Those that a terminal or a supervisor sends to all processes of the relay, and means the front one."""


class Worker:
    """Forwards for tunnels.

    Args:
        channel: to the front process, a Unix socket of datagrams.
        stall: seconds that a peer may leave what is queued for it unread.
        buffers: bytes that its connections may buffer.
    """

    def __init__(self, channel: socket.socket, stall: float, buffers: int) -> None:
        self._channel = channel
        self._loop = Loop()
        self._host = Host(self._loop, stall, buffers, self._link_closed, self._report_bug)
        self._tunnels = Tunnels()
        self._links: dict[int, Link] = {}
        self._reports: deque[bytes] = deque()
        self._ended_bytes = 0  # received by connections that are gone
        self._reported_bytes = 0
        self._report_at = self._loop.now + REPORT_INTERVAL
        channel.setblocking(False)
        self._loop.register(channel, READ, self)
        self._loop.after_round.append(self._after_round)
        self._loop.next_time.append(self._next_time)

    def run(self) -> None:
        """Serve until the front process is gone."""
        self._loop.run()

    def on_ready(self, mask: int) -> None:
        """Take what the front process says."""
        while True:
            try:
                datagram, descriptors = receive_with_sockets(self._channel)
            except BlockingIOError:
                return
            except OSError:
                datagram, descriptors = b"", []
            if not datagram:
                self._loop.stop()
                return
            if datagram.startswith(b"{"):
                self._obey(json.loads(datagram))
            else:
                self._take_pair(decode_pair(datagram), descriptors)

    def on_deadline(self) -> None:
        """Never comes: nothing is scheduled for the channel."""

    def _take_pair(self, ends: list[End], descriptors: list[int]) -> None:
        if len(descriptors) < len(ends):
            self._refuse_pair(ends, descriptors)
            return
        links = [
            self._link_of(end, socket.socket(fileno=descriptor)) for end, descriptor in zip(ends, descriptors)
        ]
        self._tunnels.serve(*links)
        for link, end in zip(links, ends):
            if end.queued:
                link.write(end.queued)

    def _refuse_pair(self, ends: list[End], descriptors: list[int]) -> None:
        # The system had no descriptor left for this process; those that did not arrive are closed already.
        for descriptor in descriptors:
            os.close(descriptor)
        for end in ends:
            detail = "no descriptor left for it"
            reason = CloseReason.CONNECTION_LOST.name
            self._report(ended=end.number, reason=reason, detail=detail, received=0, sent=0)

    def _link_of(self, end: End, sock: socket.socket) -> Link:
        link = Link(self._host, sock, "", "", self._tunnels)
        link.note = end.number
        link.connection = connection_of(end)
        link.inbox.put(end.unread)
        self._links[end.number] = link
        return link

    def _obey(self, command: dict[str, Any]) -> None:
        link = self._links.get(command["number"])
        if link is None:
            return  # it ended while the command was on its way
        reason = CloseReason[command["reason"]]
        if command["do"] == "finish":
            link.finish(reason)
        else:
            link.close(reason)

    def _link_closed(self, link: Link, reason: CloseReason, detail: str) -> None:
        number = link.note
        assert isinstance(number, int)
        del self._links[number]
        self._ended_bytes += link.received
        if link.partner is not None:
            self._tunnels.partner_ended(link.partner)
        self._report(ended=number, reason=reason.name, detail=detail, received=link.received, sent=link.sent)

    def _report_bug(self, link: Link, error: BaseException) -> None:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        self._report(bug="".join(lines).rstrip()[-8000:], number=link.note)

    def _report(self, **values: Any) -> None:
        self._reports.append(json.dumps(values).encode())

    def _after_round(self) -> None:
        if self._loop.now >= self._report_at:
            self._report_at = self._loop.now + REPORT_INTERVAL
            total = self._ended_bytes + sum(link.received for link in self._links.values())
            if total != self._reported_bytes:
                self._report(forwarded=total - self._reported_bytes)
                self._reported_bytes = total
        with contextlib.suppress(BlockingIOError):  # the front process is busy: a little later
            while self._reports:
                self._channel.send(self._reports[0])
                self._reports.popleft()

    def _next_time(self) -> Optional[float]:
        if self._reports:
            return self._loop.now + 0.05
        # What the last link forwarded is reported as well, and not only once there is another one.
        return self._report_at if self._links or self._ended_bytes != self._reported_bytes else None


def main(arguments: list[str]) -> int:
    """Serve for the front process; the arguments: its channel's descriptor, the stall limit, the budget."""
    # The front process says when to end, by closing its channel. It held these back until now.
    for number in SIGNALS_OF_THE_FRONT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_OF_THE_FRONT)
    give_back_large_blocks()
    channel = socket.socket(fileno=int(arguments[0]))
    with contextlib.suppress(ConnectionError):
        Worker(channel, float(arguments[1]), int(arguments[2])).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
