"""Start threads, and report a system that allows no more of them as an error like any other."""

from __future__ import annotations

import threading
from typing import Callable

# Docker before 20.10.10 forbids the system call clone3, with which newer C libraries start threads.
_NO_THREAD = (
    "the system allows no more threads; raise the limit on processes (ulimit -u, or TasksMax of a service),"
    " or upgrade Docker if it is older than 20.10.10"
)


def start_thread(work: Callable[[], object], name: str) -> threading.Thread:
    """Start a daemon thread and return it.

    Args:
        work: runs in the thread, and handles all of its own errors.
        name: of the thread.

    Raises:
        OSError: the system allows no more threads.
    """
    thread = threading.Thread(target=work, name=name, daemon=True)
    start(thread)
    return thread


def start(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        OSError: the system allows no more threads.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(_NO_THREAD) from error
