"""What the links of one process share, and what a role does with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Optional, Protocol

from offset_common.relay.buffers import Budget, SpareBuffers
from offset_common.relay.limits import FREE_BUFFER_SIZE
from offset_common.relay.loop import Loop
from offset_common.relay.memory import MemoryReserve
from offset_common.relay.ration import Ration
from offset_common.relay.reasons import CloseReason

if TYPE_CHECKING:
    from offset_common.relay.link import Link

MEMORY_CHECK_INTERVAL = 0.01  # seconds: too few for connections to use up what was seen to be there
SHARED_BUFFER_SIZE = 768 * 1024


class Handler(Protocol):
    """What a role does with the links that have it."""

    role: str

    def readable(self, link: Link) -> None:
        """Read, and act on what came."""

    def process(self, link: Link, data: memoryview) -> None:
        """Act on `data`, which came before."""

    def quiet(self, link: Link) -> None:
        """The time that the role set as `link.doze_at` is there."""

    def drained(self, link: Link) -> None:
        """The output queue of `link` is under its low-water mark again."""


class Remote(Protocol):
    """Another process that serves a link."""

    def finish(self, link: Link, reason: CloseReason) -> None:
        """Deliver there what is queued for `link`, then close it."""

    def close(self, link: Link, reason: CloseReason) -> None:
        """Close `link` there."""


class Host:
    """What all links of one process share.

    Args:
        loop: the loop that owns them.
        stall: seconds that a peer may leave what is queued for it unread.
        buffers: bytes that all links may buffer over what is free to each.
        link_closed: called once for each link, when it ends.
        report_bug: called with an unexpected exception, which ended the link.
    """

    def __init__(
        self,
        loop: Loop,
        stall: float,
        buffers: int,
        link_closed: Callable[[Link, CloseReason, str], None],
        report_bug: Callable[[Link, BaseException], None],
    ) -> None:
        self.loop = loop
        self.stall = stall
        self.budget: Budget[Link] = Budget(buffers, lambda link: len(link.inbox), lambda link: link.reading)
        self.ration: Ration[Link] = Ration()
        self.spare_buffers = SpareBuffers()
        self.shared = bytearray(SHARED_BUFFER_SIZE)
        self.shared_view = memoryview(self.shared)
        self.link_closed = link_closed
        self.report_bug = report_bug
        self.reserve = MemoryReserve()
        self._memory_good_until = 0.0
        self.drop_largest: Callable[[], bool] = lambda: False  # closes the link that holds most memory
        loop.no_memory = self.no_memory
        loop.next_time.append(self.reserve.next_time)
        loop.after_round.append(self.after_round)
        loop.next_time.append(self._next_time)
        loop.next_time.append(self.ration.next_time)

    def after_round(self) -> None:
        """Let those read on for whom there is room again."""
        budget = self.budget
        self.reserve.refill(self.loop.now)
        if budget.somebody_waits or budget.exhausted:
            self._make_room()
        turn = self.ration.next_turn(self.loop.now)
        if turn is not None:
            turn.resume_reading()

    def _make_room(self) -> None:
        budget, now = self.budget, self.loop.now
        # What is kept of costly frames gives way first, and most of that.
        for link in self.ration.heaviest_first(lambda link: len(link.inbox)):
            if len(link.inbox) <= FREE_BUFFER_SIZE or not budget.serves_nobody:
                break
            link.close(CloseReason.LIMIT_BUFFERS)
        overdue = budget.overdue(now)
        while overdue and budget.serves_nobody:
            for link in overdue:
                link.close(CloseReason.LIMIT_BUFFERS)
            overdue = budget.overdue(now)
        for link in budget.take_waiting(now):
            link.resume_reading()

    def defer(self, link: Link) -> None:
        """Do not read `link` until a costly frame may have its turn."""
        self.ration.wait(link)
        link.pause_reading()

    def forget(self, link: Link) -> None:
        """Drop what is kept of `link`, which ended."""
        self.budget.forget(link)
        self.ration.forget(link)

    def no_memory(self) -> bool:
        """Make some room after a MemoryError; say whether there was something to give up."""
        self.spare_buffers.clear()
        self._memory_good_until = 0.0
        return self.reserve.use(self.loop.now)

    def has_memory(self) -> bool:
        """Say whether there is memory left for something that must not stop halfway."""
        if self.loop.now < self._memory_good_until:
            return True
        if self.reserve.check():
            self._memory_good_until = self.loop.now + MEMORY_CHECK_INTERVAL
            return True
        self.no_memory()
        while not self.reserve.check():
            if not self.drop_largest():
                return False
        return True

    def need_memory(self) -> None:
        """See that there is memory left.

        Raises:
            MemoryError: there is not.
        """
        if not self.has_memory():
            raise MemoryError

    def _next_time(self) -> Optional[float]:
        return self.loop.now + 0.25 if self.budget.somebody_waits else None
