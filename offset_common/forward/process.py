"""The process of stforward: its event loop and its signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from offset_common.forward.display import Display
from offset_common.forward.event_loop import EventLoop

STOP_TIME = 0.5  # seconds to inform the other side that this one is stopping
# ssh ends its ProxyCommand with SIGHUP, and so does a terminal that is closed.
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def running_loop(display: Display) -> Iterator[EventLoop]:
    """Yield an event loop that SIGTERM, SIGINT and SIGHUP stop; a second one ends the process at once."""
    loop = EventLoop()

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        loop.call_soon_threadsafe(loop.stop)

    before = {number: signal.getsignal(number) for number in _STOPPING}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as under nohup
            signal.signal(number, stop)
    # A process inherits blocked signals from the one that started it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    wakeup = signal.set_wakeup_fd(loop.wake_descriptor, warn_on_full_buffer=False)
    try:
        yield loop
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        display.finish()
        loop.close()


def linger(loop: EventLoop) -> None:
    """Run the loop a moment longer, so that the other side receives the last messages."""
    loop.call_later(STOP_TIME, loop.stop)
    loop.run()
