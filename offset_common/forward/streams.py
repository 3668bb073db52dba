"""Many streams of bytes in one session.

A stream is opened by the connecting side, and ends when both directions have ended or one side resets it. A
side may send as many bytes as it has credit for, WINDOW at first; the receiver returns credit when the bytes
are written to their destination. So a destination that does not read holds up only its own stream.

Source: messages.py.
"""

from __future__ import annotations

from typing import Callable, Optional, Protocol, Union

from offset_common.errors import DecodeError
from offset_common.forward.messages import (
    HEADER,
    Kind,
    encode_credit,
    encode_stream,
    kind_of,
    read_credit,
    read_stream,
    read_stream_text,
)

WINDOW = 1024 * 1024  # bytes that a side may send before the other side returns credit
MAX_STREAM = 2**32 - 1


class StreamUser(Protocol):
    """The owner of a stream, to which it reports."""

    def on_open(self, stream: Stream) -> None:
        """Keep the stream; called once, before anything else."""

    def on_data(self, data: memoryview) -> None:
        """Handle bytes; call `Stream.return_credit` when they are written."""

    def on_end(self) -> None:
        """Handle the end of this direction."""

    def on_reset(self, reason: str) -> None:
        """Handle a reset: both directions were cut off."""

    def on_credit(self) -> None:
        """Handle new credit: more may be sent."""


class Stream:
    """One stream.

    Args:
        number: 1 and up.
        send: sends a stream message.
        forget: called with the stream when it has ended.
        user: the owner, to which it reports.
    """

    def __init__(
        self,
        number: int,
        send: Callable[[bytes], object],
        forget: Callable[[Stream], object],
        user: StreamUser,
    ) -> None:
        self.number = number
        self.user = user
        self._send = send
        self._forget = forget
        self.credit = WINDOW  # bytes that may be sent
        self._expected = WINDOW  # bytes that the other side may still send
        self._written = 0  # bytes for which no credit has been returned yet
        self._end_sent = self._end_received = False
        self.header = HEADER.pack(Kind.DATA, number)

    def send_data(self, message: bytes) -> None:
        """Send bytes for which there is credit; the caller has put `header` before them."""
        self.credit -= len(message) - HEADER.size
        self._send(message)

    def send_end(self) -> None:
        """End this direction."""
        self._end_sent = True
        self._send(encode_stream(Kind.END, self.number))
        self._forget_if_ended()

    def reset(self, reason: str) -> None:
        """Cut off both directions."""
        self._send(encode_stream(Kind.RESET, self.number, reason))
        self._forget(self)

    def return_credit(self, size: int) -> None:
        """Let the other side send more, because bytes were written."""
        self._written += size
        if self._written >= WINDOW // 2 and not self._end_received:
            self._send(encode_credit(self.number, self._written))
            self._expected += self._written
            self._written = 0

    def receive(self, kind: Kind, message: bytes) -> None:
        """Handle a message of this stream; raise DecodeError if it is not allowed now."""
        if kind is Kind.DATA:
            data = memoryview(message)[HEADER.size :]
            if self._end_received or not 0 < len(data) <= self._expected:
                raise DecodeError("the other side sent data that it was not allowed to send")
            self._expected -= len(data)
            self.user.on_data(data)
        elif kind is Kind.END:
            if self._end_received or len(message) != HEADER.size:
                raise DecodeError("the other side ended a stream twice")
            self._end_received = True
            self._forget_if_ended()
            self.user.on_end()
        elif kind is Kind.CREDIT:
            self.credit += read_credit(message)
            if self.credit > WINDOW:
                raise DecodeError("the other side returned credit that was not used")
            self.user.on_credit()
        else:
            reason = read_stream_text(message)
            self._forget(self)
            self.user.on_reset(reason)

    def _forget_if_ended(self) -> None:
        if self._end_sent and self._end_received:
            self._forget(self)


class Streams:
    """The streams of one session.

    Args:
        send: sends a stream message.
        accept: on the sharing side, returns the user of a stream to a service, or the reason for a refusal;
            None on the side that opens streams.
        ended: called after the end of each stream.
    """

    def __init__(
        self,
        send: Callable[[bytes], object],
        accept: Optional[Callable[[str], Union[StreamUser, str]]] = None,
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        self._send = send
        self._ended = ended
        self._accept = accept
        self._open: dict[int, Stream] = {}
        self._last = 0  # the highest number of a stream so far

    def __len__(self) -> int:
        return len(self._open)

    def open(self, service: str, user: StreamUser) -> None:
        """Open a stream to a service of the other side."""
        self._last += 1
        self._send(encode_stream(Kind.OPEN, self._last, service))
        self._add(self._last, user)

    def receive(self, message: bytes) -> None:
        """Handle a stream message.

        Raises:
            DecodeError: it is malformed, or not allowed now.
        """
        kind, number = kind_of(message), read_stream(message)
        if kind is Kind.OPEN:
            self._receive_open(number, read_stream_text(message))
            return
        stream = self._open.get(number)
        if stream is not None:
            stream.receive(kind, message)
        elif not 0 < number <= self._last:
            raise DecodeError("the other side sent a message for a stream that was never opened")
        # Otherwise this side has reset the stream, and the other side does not know that yet.

    def end_all(self, reason: str) -> None:
        """Report to every user that its stream was cut off, but not to the other side."""
        streams = list(self._open.values())
        self._open.clear()
        for stream in streams:
            stream.user.on_reset(reason)

    def reset_all(self, reason: str) -> None:
        """Reset every stream, and report that to its user."""
        for stream in list(self._open.values()):
            self._send(encode_stream(Kind.RESET, stream.number, reason))
        self.end_all(reason)

    def _receive_open(self, number: int, service: str) -> None:
        if self._accept is None or not self._last < number <= MAX_STREAM:
            raise DecodeError("the other side opened a stream that it may not open")
        self._last = number
        user = self._accept(service)
        if isinstance(user, str):
            self._send(encode_stream(Kind.RESET, number, user))
        else:
            self._add(number, user)

    def _add(self, number: int, user: StreamUser) -> None:
        self._open[number] = Stream(number, self._send, self._remove, user)
        user.on_open(self._open[number])

    def _remove(self, stream: Stream) -> None:
        self._open.pop(stream.number, None)
        self._ended()
