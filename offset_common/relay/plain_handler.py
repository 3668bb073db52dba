"""The plain handler: frames of a link are cut, opened, and given to its role one by one."""

from __future__ import annotations

from time import perf_counter

from offset_common.channel.events import MessageReceived
from offset_common.constants import FRAME_LENGTH_SIZE, MAX_FRAME_SIZE
from offset_common.relay.link import Link
from offset_common.relay.reasons import CloseReason
from offset_common.wire.frames import frame_end

READ_SIZE = 32 * 1024  # bytes read at once where no bulk is expected
MOST_UNPACKED = 256 * 1024  # bytes of messages taken at once: packed zeros can be much more than they were


class PlainHandler:
    """Cuts frames, and gives the messages in them to the role, one by one."""

    role = ""
    # For a large frame; where not, what follows a large frame's begin is left in the kernel.
    reserves_room = True

    def readable(self, link: Link) -> None:
        """Read, and act on what came."""
        data = link.read(READ_SIZE)
        if data is None:
            link.close(CloseReason.PEER_CLOSED)
        else:
            self.process(link, data)

    def process(self, link: Link, data: memoryview) -> None:
        """Act on `data`, which came before."""
        connection, now = link.connection, link.host.loop.now
        assert connection is not None
        ration = link.host.ration
        if len(data) < FRAME_LENGTH_SIZE or frame_end(data, 0, MAX_FRAME_SIZE) > len(data):
            link.keep(data, 0, reserve=self.reserves_room)
            return
        data = memoryview(bytes(data))  # a message may let another link be read into the shared buffer
        start = size = 0
        whole = deferred = False
        while len(data) - start >= FRAME_LENGTH_SIZE:
            end = frame_end(data, start, MAX_FRAME_SIZE)
            if end > len(data):
                break
            length = end - start - FRAME_LENGTH_SIZE
            if link.handler is not self or size > MOST_UNPACKED or self.has_enough(link, length):
                whole = True
                break
            payload = bytes(data[start + FRAME_LENGTH_SIZE : end])
            deferred = not ration.is_free(link, now) and connection.is_costly(payload)
            if deferred:
                whole = True
                break
            started = perf_counter()
            try:
                event = connection.receive_frame(payload, now)
            finally:
                ration.spent(1, length, perf_counter() - started, now)
            start = end
            if isinstance(event, MessageReceived):
                size += len(event.data)
                self.message(link, event.data)
                if link.closed:
                    return
        link.send_connection()
        if link.closed:
            return
        link.keep(data, start, reserve=self.reserves_room and link.handler is self, whole=whole)
        if deferred:
            link.host.defer(link)
        elif link.handler is not self or whole:
            link.process_kept_soon()

    def message(self, link: Link, data: bytes) -> None:
        """Act on one message of the peer."""
        raise NotImplementedError

    def has_enough(self, link: Link, length: int) -> bool:
        """Say whether the next frame of `link`, of `length` bytes, should wait, although it is there."""
        return False

    def quiet(self, link: Link) -> None:
        """Nothing follows from that here."""

    def drained(self, link: Link) -> None:
        """Nothing waits for that here."""
