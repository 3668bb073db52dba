"""The interface that listeners and tunnels share: iterate, close, use as a context manager."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Generic, Optional, TypeVar

from offset_common.client.driver import CLOSE_TIMEOUT, Driver
from offset_common.errors import ConnectionEnded

Item = TypeVar("Item")
AnyHandle = TypeVar("AnyHandle", bound="Handle[Any]")


class Handle(ABC, Generic[Item]):
    """The program's access to one connection.

    Args:
        driver: runs the connection.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @abstractmethod
    def receive(self, timeout: Optional[float] = None) -> Item:
        """Return the next item that arrives."""

    def __iter__(self) -> Iterator[Item]:
        """Yield each item that `receive` returns. Stop at an orderly end; raise other errors of `receive`."""
        while True:
            try:
                item = self.receive()
            except ConnectionEnded as error:
                if type(error) is ConnectionEnded:  # its subclasses are errors
                    return
                raise
            yield item

    def close(self, timeout: Optional[float] = CLOSE_TIMEOUT) -> None:
        """Deliver what was sent, drop what was not received, and close the connection.

        The connection, its thread and its descriptors are gone at most 30 s later, even if the relay or the
        other node never finishes. Messages that are not delivered by then are dropped.

        Args:
            timeout: seconds to wait for the delivery, which continues in the background after that; None to
                wait until the connection is gone.
        """
        self._driver.close(timeout)

    def abort(self) -> None:
        """Close the connection at once, and drop what was not delivered or received."""
        self._driver.abort()

    def __enter__(self: AnyHandle) -> AnyHandle:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()
