"""The permissions of a file: warn about an exposed private key, and advise if access is denied.

The advice depends on the owner. Services often read a key that belongs to another user: systemd gives
credentials mode 0440 and an access control list (ACL), Kubernetes gives secrets the group of the pod. A chmod
there is impossible or stops the service.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import NamedTuple, Optional, Union

_AnyPath = Union[str, "os.PathLike[str]"]

_EVERY_USER = "every user can read the private key"
_ACL = "system.posix_acl_access"  # the extended attribute of Linux that holds an ACL


class Exposure(NamedTuple):
    """A warning about a private key; str() gives one sentence without a full stop.

    Args:
        reason: which users can read the key.
        advice: what to do.
    """

    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}"


def exposure(path: _AnyPath) -> Optional[Exposure]:
    """Return a warning if more users than needed can read a file with a private key.

    Args:
        path: an existing file.

    Returns:
        The warning, or None if the file is private, missing or on a system without owners.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    if not hasattr(os, "geteuid") or not stat.S_ISREG(status.st_mode):
        return None
    if status.st_uid != os.geteuid():
        # The group or an ACL lets this process read it; only access for all other users is too much.
        if status.st_mode & stat.S_IROTH:
            return Exposure(_EVERY_USER, "ask the owner of the file to change that")
        return None
    if _has_acl(path):
        # The group bits of the mode are the mask of the ACL here.
        if status.st_mode & stat.S_IROTH:
            return Exposure(_EVERY_USER, f"run chmod o-r {shlex.quote(str(path))}")
        return None
    if status.st_mode & (stat.S_IRGRP | stat.S_IROTH):
        return Exposure("other users can read the private key", f"run chmod 600 {shlex.quote(str(path))}")
    return None


def refusal(path: _AnyPath) -> str:
    """Return what to do if the system denied access to a file, or to the directory of a new file."""
    existing = Path(path) if os.path.lexists(path) else Path(path).parent
    try:
        own = hasattr(os, "geteuid") and existing.stat().st_uid == os.geteuid()
    except OSError:
        own = False
    if own:
        return f"you own {shlex.quote(str(existing))}; allow it with chmod u+rwX"
    return "run as a user who has access, or ask the owner for it"


def _has_acl(path: _AnyPath) -> bool:
    if not hasattr(os, "getxattr"):
        return False
    try:
        return bool(os.getxattr(path, _ACL))
    except OSError:
        return False
