"""The sharing side: listens at the relay, decides who may connect, and connects streams to services.

    relay --> _run_listener (a thread) --> _admit --> _dial_back (a thread) --> Caller --> Session --> service

Unknown keys are rejected before anything else happens, unless the user can be asked. The resources of a key
are limited (places.py). A caller that breaks the rules loses its own session and nothing else.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Callable, NamedTuple, Optional

from offset_common.client import Dialing, Incoming, Listener, dial, listen
from offset_common.client.backoff import Backoff
from offset_common.errors import OffsetError, OperatorError, PeerError, SilenceError
from offset_common.forward.approval import Approval
from offset_common.forward.caller import Caller
from offset_common.forward.display import Display
from offset_common.forward.event_loop import EventLoop
from offset_common.forward.local import reason_of
from offset_common.forward.messages import Hello, Welcome
from offset_common.forward.peers import Peers, Rule
from offset_common.forward.places import TUNNELS_PER_KEY, UNKNOWN, Places
from offset_common.forward.services import Service
from offset_common.forward.session import Session
from offset_common.forward.shared_session import SharedSession
from offset_common.forward.targets import Targets
from offset_common.forward.traffic import Traffic
from offset_common.identity import Identity, encode_key, short_key
from offset_common.threads import start_thread
from offset_common.tickets import RelayTicket


class Options(NamedTuple):
    """The user's options.

    Args:
        name: this machine's name.
        allowed: keys that may connect, in addition to those in the file.
        anyone: let every key connect.
        max_streams: the maximum number of connections to services at a time.
        keep: seconds that a session lives without a tunnel.
    """

    name: str
    allowed: frozenset[bytes]
    anyone: bool
    max_streams: int
    keep: float


class Share:
    """The sharing side. `start` returns at once; all else happens in the event loop and in threads.

    Args:
        loop: the event loop.
        ticket: the relay's ticket.
        identity: this machine's identity.
        services: the shared services, by name.
        peers: the file of known keys.
        options: the user's options.
        display: shows what happens.
    """

    def __init__(
        self,
        loop: EventLoop,
        ticket: RelayTicket,
        identity: Identity,
        services: dict[str, Service],
        peers: Peers,
        options: Options,
        display: Display,
    ) -> None:
        self._loop = loop
        self._ticket = ticket
        self._identity = identity
        self._services = services
        self._peers = peers
        self._options = options
        self._display = display
        self._traffic = Traffic(loop, display)
        self._approval = Approval(loop, display)
        self._targets = Targets(loop, services, self._traffic, options.max_streams, display)
        self._places = Places()
        self._sessions: dict[tuple[bytes, bytes], SharedSession] = {}  # by key, and number of the session
        self._callers: set[Caller] = set()
        self._stopping = threading.Event()
        self._listener: Optional[Listener] = None

    def start(self) -> None:
        """Start listening."""
        start_thread(self._run_listener, "offset share")

    def stop(self) -> None:
        """Cut off everything."""
        self._stopping.set()
        if self._listener is not None:
            self._listener.close(timeout=0)
        for session in list(self._sessions.values()):
            session.reset_all("stforward was stopped there")
        for caller in list(self._callers):
            caller.finish()

    # In the thread of the listener.

    def _run_listener(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            self._display.state(f"connecting to the relay {self._ticket.address}")
            start = time.monotonic()
            try:
                with listen(self._ticket, self._identity) as self._listener:
                    self._display.state("waiting for connections")
                    for incoming in self._listener:
                        self._admit(incoming)
            except (OSError, OffsetError) as error:
                if self._stopping.is_set():
                    return
                backoff.listener_ended(time.monotonic() - start)
                delay = backoff.next()
                text = f"not reachable: {reason_of(error)}; trying again in {delay:.1f} s"
                self._display.problem("relay_lost", text, seconds=round(delay, 1))
                self._stopping.wait(delay)

    def _admit(self, incoming: Incoming) -> None:
        """Reject a connect, or accept it in a thread."""
        key = incoming.public_key
        known, refusal = self._judge(key)
        place = key if known else UNKNOWN
        if not refusal and not self._places.take(place):
            refusal = "it has too many tunnels" if known else "too many unknown keys are waiting"
        elif not refusal:
            try:
                self._loop.in_thread("accept", partial(self._dial_back, key, known))
            except OSError as error:
                self._places.give_back(place)
                refusal = str(error)
        if refusal:
            incoming.reject()
            text = f"rejected {encode_key(key)}: {refusal}"
            self._display.repeated_event("rejected", text, key=encode_key(key), reason=refusal)

    def _judge(self, key: bytes) -> tuple[bool, str]:
        """Return whether a key is known, and the reason for a refusal, or an empty string."""
        if self._options.anyone or key in self._options.allowed:
            return True, ""
        try:
            peer = self._peers.find(key)
        except OperatorError as error:
            return False, str(error)
        if peer is not None:
            return True, "" if peer.rule is Rule.ALLOW else f"{self._peers.path} denies it"
        if self._approval.possible:
            return False, ""
        line = f"allow {encode_key(key)}"
        return False, f"this key is unknown; to let it in, add the line {line!r} to {self._peers.path}"

    # In a thread for each connect.

    def _dial_back(self, key: bytes, known: bool) -> Callable[[], object]:
        try:
            dialing = dial(self._ticket, self._identity)
        except (OSError, OffsetError) as error:
            reason = reason_of(error)
            return lambda: self._not_accepted(key, known, reason)
        return lambda: self._accept(dialing, key, known)

    # In the event loop.

    def _not_accepted(self, key: bytes, known: bool, reason: str) -> None:
        self._places.give_back(key if known else UNKNOWN)
        self._report_failure(key, reason)

    def _accept(self, dialing: Dialing, key: bytes, known: bool) -> None:
        if self._stopping.is_set():
            dialing.sock.close()
        else:
            self._callers.add(Caller(self._loop, self, dialing, key, known))

    def ask(self, caller: Caller, hello: Hello) -> None:
        """Ask the user whether an unknown key may connect."""
        if self._is_undecided(caller, hello):
            question = f"{hello.name or 'no name'}, key {encode_key(caller.key)}: let in?"
            needed = partial(self._is_undecided, caller, hello)
            self._approval.ask(question, needed, partial(self._answered, caller, hello))

    def _is_undecided(self, caller: Caller, hello: Hello) -> bool:
        """Return whether the user must decide about a caller; if not, answer it."""
        if caller.tunnel.closed:
            return False
        known, refusal = self._judge(caller.key)  # judged again: the file may have changed
        if known or refusal:
            caller.answer(hello, refusal)
        return not known and not refusal

    def _answered(self, caller: Caller, hello: Hello, yes: Optional[bool]) -> None:
        if yes is None:
            self._is_undecided(caller, hello)  # answers it: nobody can be asked now
            return
        rule = Rule.ALLOW if yes else Rule.DENY
        try:
            self._peers.add(rule, caller.key, hello.name)
        except OperatorError as error:
            self._display.problem("not_remembered", f"the answer is not remembered: {error}")
        else:
            text = f"remembered as {rule.value!r} in {self._peers.path}, where you can change it"
            self._display.event("remembered", text, key=encode_key(caller.key), rule=rule.value)
        caller.answer(hello, "" if yes else "the user there said no")

    def join(self, caller: Caller, hello: Hello) -> Session:
        """Give a caller its session: its previous one, or a new one."""
        number = caller.key, hello.session
        session = self._sessions.get(number)
        resumed = session is not None
        if session is None:
            self._make_room(caller.key)
            session = SharedSession(self._loop, self._targets.connect, self._name_of(caller.key, hello.name))
            self._sessions[number] = session
        welcome = Welcome(resumed, session.received, self._options.name, tuple(self._services))
        session.join(caller, welcome, hello.received if resumed else 0)
        how = "is back" if resumed else "is connected"
        self._display.event("peer_joined", f"{session.peer} {how}", peer=session.peer, resumed=resumed)
        return session

    def leave(self, caller: Caller, session: Optional[Session], error: Optional[Exception]) -> None:
        """Free the place of a caller, and keep its session for the next tunnel."""
        self._callers.discard(caller)
        self._places.give_back(caller.key if caller.known else UNKNOWN)
        broken = isinstance(error, PeerError) and not isinstance(error, SilenceError)
        if error is not None and (broken or session is None):
            self._report_failure(caller.key, reason_of(error))
        number = next((number for number, each in self._sessions.items() if each.uses(caller)), None)
        if number is None:
            return
        shared = self._sessions[number]
        shared.leave()
        if broken or shared.finished:
            self._end_session(number, "the other side broke the rules")
        else:
            keep = self._options.keep
            text = f"{shared.peer} is disconnected; its connections wait for {keep:g} s"
            self._display.event("peer_lost", text, peer=shared.peer, seconds=keep)
            reason = "the other side did not return in time"
            shared.expire(self._loop.call_later(keep, partial(self._end_session, number, reason)))

    def _end_session(self, number: tuple[bytes, bytes], reason: str) -> None:
        session = self._sessions.pop(number, None)
        if session is not None:
            session.leave()
            session.end(reason)

    def _make_room(self, key: bytes) -> None:
        """If a key has too many sessions, end its oldest session without a tunnel."""
        own = [number for number in self._sessions if number[0] == key]
        away = [number for number in own if not self._sessions[number].attached]
        if len(own) >= TUNNELS_PER_KEY and away:
            self._end_session(away[0], "the other side opened too many sessions")

    def _name_of(self, key: bytes, claimed: str = "") -> str:
        """Return the name to show for a key: that in the file, or the claimed one with the key's start."""
        try:
            peer = self._peers.find(key)
        except OperatorError:
            peer = None
        if peer is not None and peer.name:
            return peer.name
        return f"{claimed or 'key'} {short_key(key)}"

    def _report_failure(self, key: bytes, reason: str) -> None:
        text = f"the tunnel of {self._name_of(key)} failed: {reason}"
        self._display.repeated_event("tunnel_failed", text, key=encode_key(key), reason=reason)
