"""A worker process: forwards the tunnels that the front process sends it, and does nothing else.

It reports to the front process in JSON datagrams: a heartbeat, the end of each connection, and bugs. When
the front process is gone, the worker ends.
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
from typing import Any

from offset_common.channel.connection import Connection
from offset_common.relay.addresses import PeerAddress
from offset_common.relay.buffer_pool import BufferPool, return_large_blocks
from offset_common.relay.close_reason import CloseReason, reason_of
from offset_common.relay.connection import Environment, SocketConnection
from offset_common.relay.event_loop import READ, EventLoop
from offset_common.relay.input_buffer import ReceiveBuffer
from offset_common.relay.sessions.tunnel import Tunnel, Tunnels
from offset_common.relay.signals import HANDLED
from offset_common.relay.workers.transfer import MAX_DATAGRAM, End, decode_pair

HEARTBEAT_INTERVAL = 0.5  # seconds
RETRY_INTERVAL = 0.05  # seconds before another attempt to send a report that the front process did not accept
MAX_TRACEBACK = 8000  # characters


class Worker:
    """Forwards tunnels.

    Args:
        channel: a Unix socket that carries datagrams to and from the front process.
        stall: seconds that a peer may leave its output unread.
        buffers: bytes that all connections together may buffer.
    """

    def __init__(self, channel: socket.socket, stall: float, buffers: int) -> None:
        self._channel = channel
        self.loop = EventLoop()
        pool = BufferPool(buffers)
        self._env = Environment(
            self.loop, pool, ReceiveBuffer(), stall, self._connection_closed, self._report_bug
        )
        self._tunnels = Tunnels()
        self._connections: dict[int, SocketConnection] = {}
        self.numbers: dict[SocketConnection, int] = {}
        self._reports: deque[bytes] = deque()
        self._heartbeat_at = self.loop.now
        channel.setblocking(False)
        self.loop.register(channel, READ, self)
        self.loop.add_periodic(lambda: pool.resume_waiting(self.loop.now), pool.next_time)
        self.loop.add_periodic(self._send_reports, self._next_report)

    def run(self) -> None:
        """Serve until the front process is gone."""
        self.loop.run()

    def report(self, **values: Any) -> None:
        """Send a report to the front process soon."""
        self._reports.append(json.dumps(values).encode())

    def on_ready(self, events: int) -> None:
        """Receive tunnels and commands."""
        while True:
            try:
                datagram, descriptors, _, _ = socket.recv_fds(self._channel, MAX_DATAGRAM, 2)
            except BlockingIOError:
                return
            except OSError:
                datagram, descriptors = b"", []
            if not datagram:
                self.loop.stop()
                return
            if datagram.startswith(b"{"):
                self._run_command(json.loads(datagram))
            else:
                self._take_pair(decode_pair(datagram), descriptors)

    def _take_pair(self, ends: list[End], descriptors: list[int]) -> None:
        if len(descriptors) < len(ends):
            self._refuse_pair(ends, descriptors)
            return
        connections = [
            SocketConnection(self._env, socket.socket(fileno=descriptor), PeerAddress("", end.prefix))
            for end, descriptor in zip(ends, descriptors)
        ]
        for connection, end in zip(connections, ends):
            self._connections[end.number] = connection
            self.numbers[connection] = end.number
        try:
            tunnels = self._restore_pair(connections, ends)
        except Exception as error:  # it ends only this pair
            self._drop_pair(connections, error)
            return
        for connection, tunnel in zip(connections, tunnels):
            connection.start(tunnel)

    def _restore_pair(self, connections: list[SocketConnection], ends: list[End]) -> tuple[Tunnel, Tunnel]:
        for connection, end in zip(connections, ends):
            connection.adopt(Connection.import_state(end.state), end.input, end.key)
            if end.output:  # before an end starts: if it fails, the other one still delivers its output
                connection.output.append(end.output, self.loop.now)
        return self._tunnels.make_ends(*connections)

    def _drop_pair(self, connections: list[SocketConnection], error: Exception) -> None:
        """Close the connections of a pair that could not be restored; they have no session yet."""
        reason, detail = reason_of(error)
        if reason is CloseReason.BUG:
            self._report_bug(connections[0], error)
        for connection in connections:
            connection.release()
            self._connection_closed(connection, reason, detail)

    def _refuse_pair(self, ends: list[End], descriptors: list[int]) -> None:
        # This process had no descriptor left; the kernel has closed those that did not arrive.
        for descriptor in descriptors:
            os.close(descriptor)
        for end in ends:
            self._report_end(end.number, CloseReason.CONNECTION_LOST, "the worker has no descriptor left")

    def _run_command(self, command: dict[str, Any]) -> None:
        connection = self._connections.get(command["number"])
        if connection is None:
            return  # it ended while the command was on its way
        reason = CloseReason[command["reason"]]
        if command["do"] == "finish":
            connection.finish(reason)
        else:
            connection.close(reason)

    def _connection_closed(self, connection: SocketConnection, reason: CloseReason, detail: str) -> None:
        number = self.numbers.pop(connection)
        del self._connections[number]
        self._report_end(number, reason, detail, connection.received, connection.sent)

    def _report_end(
        self, number: int, reason: CloseReason, detail: str, received: int = 0, sent: int = 0
    ) -> None:
        self.report(ended=number, reason=reason.name, detail=detail, received=received, sent=sent)

    def _report_bug(self, connection: SocketConnection, error: BaseException) -> None:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        self.report(bug="".join(lines).rstrip()[-MAX_TRACEBACK:])

    def _send_reports(self) -> None:
        if self.loop.now >= self._heartbeat_at:
            self._heartbeat_at = self.loop.now + HEARTBEAT_INTERVAL
            self.report(alive=True)
        with contextlib.suppress(BlockingIOError):  # the front process is busy; try again a little later
            while self._reports:
                self._channel.send(self._reports[0])
                self._reports.popleft()

    def _next_report(self) -> float:
        return self.loop.now + RETRY_INTERVAL if self._reports else self._heartbeat_at


def prepare(arguments: list[str]) -> tuple[socket.socket, float, int]:
    """Prepare the process; return the channel, stall limit and buffers that the arguments describe."""
    # A terminal or a supervisor sends signals to all processes, but the front process decides when to end, by
    # closing the channel. It blocked these signals until now.
    for number in HANDLED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    return_large_blocks()
    return socket.socket(fileno=int(arguments[0])), float(arguments[1]), int(arguments[2])


def main(arguments: list[str]) -> int:
    """Serve the front process; arguments: the channel's descriptor, stall limit and buffers."""
    channel, stall, buffers = prepare(arguments)
    with contextlib.suppress(ConnectionError):
        Worker(channel, stall, buffers).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
