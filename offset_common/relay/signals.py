"""The relay's signals, from the moment it is started to its exit.

strelay.py imports this file before it checks the version of Python. So it imports next to nothing, and must
parse on old Pythons, like offset_common/requirements.py.
"""

# ruff: noqa: F401, UP031, UP036

import os
import signal
import sys

if sys.version_info >= (3, 9):
    from types import FrameType
    from typing import Callable, Optional

HANDLED = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
"""The signals that the relay handles. By default, each of them would end the process."""

STOPPING = (signal.SIGTERM, signal.SIGINT)

# A shell starts a background job with SIGINT ignored; nohup starts a program with SIGHUP ignored.
_KEPT_IGNORED = (signal.SIGINT, getattr(signal, "SIGHUP", None))


class Signals:
    """Keeps signals while the relay starts, and passes them on once it can act on them.

    A signal that stops the relay ends its startup, with status 0.
    """

    def __init__(self):
        # type: () -> None
        self._early = []  # type: list[int]
        self._act = None  # type: Optional[Callable[[int], object]]
        self._may_exit = True

    def install(self):
        # type: () -> None
        """Handle every signal from now on, except those that the parent process set to be ignored."""
        for number in HANDLED:
            ignored = signal.getsignal(number) == signal.SIG_IGN
            if not (ignored and number in _KEPT_IGNORED):
                signal.signal(number, self._receive)
        if hasattr(signal, "pthread_sigmask"):
            # A process inherits blocked signals from the one that started it.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)

    def hold(self):
        # type: () -> None
        """Also keep signals that stop the relay: an exception would leave threads and processes behind."""
        self._may_exit = False

    def attach(self, act, wake_descriptor):
        # type: (Callable[[int], object], int) -> None
        """Pass the early signals, and all later ones, to `act`.

        Args:
            act: called with the number of a signal, between any two steps of the main thread.
            wake_descriptor: the system writes a byte to it at each signal.
        """
        signal.set_wakeup_fd(wake_descriptor, warn_on_full_buffer=False)
        self._act = act
        early, self._early = self._early, []
        for number in early:
            act(number)

    def detach(self):
        # type: () -> None
        """Ignore signals from now on: the relay has stopped."""
        signal.set_wakeup_fd(-1)
        # Not with a Python handler: those are removed a moment before the process ends.
        for number in HANDLED:
            signal.signal(number, signal.SIG_IGN)

    def _receive(self, number, _frame):
        # type: (int, Optional[FrameType]) -> None
        if self._act is not None:
            self._act(number)
            return
        # Kept even if it ends the startup: Python discards exceptions in a few places, such as finalizers.
        self._early.append(number)
        if self._may_exit and number in STOPPING:
            _report("strelay: stopped by %s before it was ready\n" % signal.Signals(number).name)
            sys.exit(0)


def _report(line):
    # type: (str) -> None
    if sys.stderr is not None:
        try:
            # Not through sys.stderr, which the signal may have interrupted in the middle of a line.
            os.write(sys.stderr.fileno(), line.encode("ascii"))
        except (OSError, ValueError):
            pass  # closed or unwritable
