"""What a proven connection does: its InitConnection, a listener's traffic, a connect that waits.

Each role is a handler; a link has one at a time. What the registry decides is carried out here.
A joined pair goes on to the tunnels (forwarding.py, or a worker process).

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable, Optional, Protocol

from offset_common.constants import INIT_TIMEOUT, WAITING_CONNECT_TIMEOUT
from offset_common.relay.limits import (
    EARLY_DATA_SIZE,
    FREE_BUFFER_SIZE,
    LISTENER_CHANGE_DELAY,
    LISTENER_CHANGES_IN_WINDOW,
    LISTENER_CHANGES_WINDOW,
    OUTPUT_HIGH_WATER,
)
from offset_common.relay.link import Link
from offset_common.relay.origins import Origins
from offset_common.relay.plain_handler import PlainHandler
from offset_common.relay.reasons import CloseReason
from offset_common.relay.registry import Action, Announce, Close, Join, Registry
from offset_common.wire.messages import (
    IncomingConnection,
    InitConnection,
    InitRole,
    RejectConnection,
)

DOZE_AFTER = 2.0  # seconds after which a listener is looked at once a second only
EARLY_MESSAGE_COST = 512  # bytes counted for each early message besides its content: sealing it takes 10 us
MOST_ANNOUNCED = 4 * OUTPUT_HIGH_WATER  # bytes of announcements that a listener may leave unread


class Joiner(Protocol):
    """Makes tunnels."""

    def join(self, connect: Link, accept: Link, early: Sequence[bytes]) -> None:
        """Forward between two links from now on, `early` going to `accept` first."""


class Newcomers(PlainHandler):
    """Proven connections that have not said what they want."""

    role = "newcomer"

    def __init__(self, roles: Roles) -> None:
        self._roles = roles

    def admit(self, link: Link) -> None:
        """Take a link whose peer is proven; what it needs to say first may have come already."""
        link.handler = self
        link.timeout = link.host.loop.now + INIT_TIMEOUT
        link.timeout_reason = CloseReason.INIT_TIMEOUT
        link.watch()
        link.schedule()
        self.process(link, link.reread())

    def message(self, link: Link, data: bytes) -> None:
        """Take the InitConnection, which decides the role."""
        init = InitConnection.decode(data)
        link.host.need_memory()
        link.timeout = math.inf
        self._roles.origins.settle(link)
        if init.role is InitRole.LISTEN:
            self._roles.listen(link)
            return
        assert init.public_key is not None
        if init.role is InitRole.CONNECT:
            self._roles.connect(link, init.public_key)
        else:
            self._roles.accept(link, init.public_key)


class Listeners(PlainHandler):
    """Connections that take connects for their key."""

    role = "listener"

    def __init__(self, roles: Roles) -> None:
        self._roles = roles

    def message(self, link: Link, data: bytes) -> None:
        """Take a rejection, the only thing that a listener says."""
        self._roles.reject(link, RejectConnection.decode(data).public_key)

    def quiet(self, link: Link) -> None:
        """Let a listener doze that has nobody to accept or reject; `_announce` rouses it."""
        if self._roles.registry.somebody_waits_for(link.key):
            link.doze_at = link.host.loop.now + DOZE_AFTER
        else:
            link.doze()


class WaitingListens(PlainHandler):
    """Listens that wait because their key changes hands too often."""

    role = "listener"

    def message(self, link: Link, data: bytes) -> None:
        """Ignore a rejection: nothing was announced here."""
        RejectConnection.decode(data)


class EarlyData:
    """What a waiting connect sent before it was accepted."""

    __slots__ = ("kept_since", "messages", "size")

    def __init__(self) -> None:
        self.kept_since: Optional[float] = None  # when it became more than everybody may have
        self.messages: list[bytes] = []
        self.size = 0


class WaitingConnects(PlainHandler):
    """Connects that wait to be accepted, and what they send meanwhile."""

    role = "waiting connect"
    reserves_room = False

    def message(self, link: Link, data: bytes) -> None:
        """Keep a message for the acceptor."""
        early, budget = link.note, link.host.budget
        assert isinstance(early, EarlyData)
        cost = len(data) + EARLY_MESSAGE_COST
        if cost > FREE_BUFFER_SIZE and budget.used + cost > budget.limit:
            # A small frame may unpack to a mebibyte.
            link.close(CloseReason.LIMIT_BUFFERS)
            return
        early.messages.append(data)
        early.size += cost
        budget.used += cost

    def has_enough(self, link: Link, length: int) -> bool:
        """Leave the rest for later once enough is kept, or would be while nothing more may be."""
        early = link.note
        assert isinstance(early, EarlyData)
        if link.host.budget.exhausted:
            return early.size > 0 or length > FREE_BUFFER_SIZE
        return early.size > EARLY_DATA_SIZE

    def process(self, link: Link, data: memoryview) -> None:
        """Act on `data`; once enough is kept, or would be, the socket is not read any more."""
        super().process(link, data)
        early, budget = link.note, link.host.budget
        if link.closed or link.handler is not self or not isinstance(early, EarlyData):
            return
        kept = early.size + len(link.inbox)
        if kept > FREE_BUFFER_SIZE:
            if early.kept_since is None:
                early.kept_since = link.host.loop.now
            budget.keep(link, kept, early.kept_since)
        most = FREE_BUFFER_SIZE if budget.exhausted else EARLY_DATA_SIZE
        if self.has_enough(link, 0) or early.size + link.inbox.missing() > most:
            link.pause_reading()


class Fights:
    """Counts how often keys change hands, so that two programs with one key make no storm."""

    def __init__(self) -> None:
        self._changes: dict[bytes, tuple[int, float]] = {}  # how often, and since when

    def must_wait(self, key: bytes, older: object, now: float) -> bool:
        """Say whether one more listen for `key`, while `older` listens, comes too soon."""
        if older is None:
            return False
        self._forget_old(now)
        count, since = self._changes.get(key, (0, now))
        self._changes[key] = (count + 1, since)
        return count >= LISTENER_CHANGES_IN_WINDOW

    def _forget_old(self, now: float) -> None:
        # They are in the order in which their windows began.
        while self._changes:
            key, (_, since) = next(iter(self._changes.items()))
            if now - since < LISTENER_CHANGES_WINDOW:
                return
            del self._changes[key]


class DelayedListens:
    """Listens that take effect a little later, one for each key: the newest; a member of the loop."""

    def __init__(self, listen: Callable[[Link], None]) -> None:
        self._listen = listen
        self._links: dict[bytes, tuple[float, Link]] = {}  # by key, in the order of their moments

    def add(self, link: Link) -> None:
        """Let the listen of `link` take effect after a moment, instead of an older one that waits for it."""
        loop = link.host.loop
        when, older = self._links.get(link.key, (loop.now + LISTENER_CHANGE_DELAY, None))
        if older is not None:
            older.close(CloseReason.REPLACED)
        elif not self._links:
            loop.deadlines.schedule(self, when)
        self._links[link.key] = when, link

    def on_ready(self, mask: int) -> None:
        """Never comes: there is no socket."""

    def on_deadline(self) -> None:
        """Let those take effect whose moment is over and whose connection still is there."""
        for key, (when, link) in list(self._links.items()):
            if when > link.host.loop.now:
                link.host.loop.deadlines.schedule(self, when)
                return
            del self._links[key]
            if link.closed:
                continue
            try:
                self._listen(link)
            except Exception as error:
                link.fail(error)


class Roles:
    """Carries out what connections ask for and what the registry decides.

    Args:
        registry: who listens, who waits, who is joined.
        origins: told when a connection has its role.
        joiner: makes tunnels.
        warn: called with a kind and a line for the operator.
    """

    def __init__(
        self, registry: Registry, origins: Origins, joiner: Joiner, warn: Callable[[str, str], None]
    ) -> None:
        self.registry = registry
        self.origins = origins
        self._joiner = joiner
        self._warn = warn
        self.newcomers = Newcomers(self)
        self.listeners = Listeners(self)
        self.waiting_connects = WaitingConnects()
        self.waiting_listens = WaitingListens()
        self._fights = Fights()
        self._delayed = DelayedListens(self.listen_now)

    def listen(self, link: Link) -> None:
        """Make `link` the listener of its key: at once, or after others had a moment."""
        if self._fights.must_wait(link.key, self.registry.listener_of(link.key), link.host.loop.now):
            self._warn("fight", f"two programs listen as key={link.key.hex()[:8]}: the newest waits a moment")
            link.handler = self.waiting_listens
            link.schedule()
            self._delayed.add(link)
        else:
            self.listen_now(link)

    def listen_now(self, link: Link) -> None:
        """Make `link` the listener of its key; an older one is closed."""
        link.handler = self.listeners
        link.doze_at = link.host.loop.now + DOZE_AFTER
        link.schedule()
        self._act(self.registry.listen(link, link.key))

    def connect(self, link: Link, target: bytes) -> None:
        """Let `link` wait for the listener of `target`."""
        link.handler = self.waiting_connects
        link.note = EarlyData()
        link.timeout = link.host.loop.now + WAITING_CONNECT_TIMEOUT
        link.timeout_reason = CloseReason.NOT_ACCEPTED
        link.schedule()
        self._act(self.registry.connect(link, link.key, target))

    def accept(self, link: Link, source: bytes) -> None:
        """Join `link` with a waiting connect of `source`."""
        self._act(self.registry.accept(link, link.key, source))

    def reject(self, link: Link, source: bytes) -> None:
        """Close a connect of `source` that waits for the listener `link`."""
        self._act(self.registry.reject(link, source))

    def closed(self, link: Link) -> None:
        """Forget `link`, which ended, and end what depends on it."""
        early = link.note
        if isinstance(early, EarlyData):
            link.host.budget.used -= early.size
        self._act(self.registry.closed(link))

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Announce):
                self._announce(action)
            elif isinstance(action, Join):
                self._join(action)
            else:
                self._close(action)

    def _announce(self, action: Announce) -> None:
        listener = action.listener
        assert isinstance(listener, Link)
        if listener.dozing:
            listener.rouse()  # perhaps to find that it is gone, which ends those who wait for it
            listener.doze_at = listener.host.loop.now + DOZE_AFTER
        if listener.closed or listener.connection is None:
            return
        if len(listener.outbox) > MOST_ANNOUNCED:
            listener.close(CloseReason.LIMIT_BUFFERS)
            return
        listener.connection.send(IncomingConnection(action.source).encode(), listener.host.loop.now)
        listener.send_connection()

    def _join(self, action: Join) -> None:
        connect, accept = action.connect, action.accept
        assert isinstance(connect, Link) and isinstance(accept, Link)
        early = connect.note
        assert isinstance(early, EarlyData)
        connect.note = None
        connect.host.budget.used -= early.size
        connect.host.budget.keep(connect, len(connect.outbox), connect.host.loop.now)
        connect.timeout = math.inf
        try:
            self._joiner.join(connect, accept, early.messages)
        except Exception:
            connect.finish(CloseReason.PARTNER_ENDED)  # the caller ends the acceptor
            raise

    @staticmethod
    def _close(action: Close) -> None:
        link = action.connection
        assert isinstance(link, Link)
        link.close(action.reason)
