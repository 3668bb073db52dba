"""The configuration directory, in which stforward keeps what it needs next time: ~/.config/offset.

    stforward.ident   this machine's private key, created at the first use
    relay.relay       the ticket of the relay that `share` used last
    peers             which keys may connect (peers.py)
    codes             names for codes (known_codes.py)

XDG_CONFIG_HOME changes the place, as for other programs.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from offset_common.errors import FileError, ServiceError, UsageError, os_error_sentence
from offset_common.file_access import refusal
from offset_common.files import flush_to_disk, read_file
from offset_common.identity import Identity, load_identity, save_identity
from offset_common.tickets import RelayTicket

IDENTITY = "stforward.ident"
RELAY = "relay.relay"
MAX_SIZE = 1024 * 1024  # bytes of a file


class ConfigDirectory:
    """The directory. It is created when something is first written.

    Args:
        path: its name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_user(cls) -> ConfigDirectory:
        """Return the directory of the user who runs this process.

        Raises:
            UsageError: the user has no home directory.
        """
        # "All paths must be absolute. If a relative one is found, ignore it" (XDG Base Directory).
        base, home = (os.environ.get(name, "") for name in ("XDG_CONFIG_HOME", "HOME"))
        if base.startswith("/"):
            return cls(Path(base, "offset"))
        if not home.startswith("/"):
            with suppress(KeyError):
                home = pwd.getpwuid(os.getuid()).pw_dir
        if not home.startswith("/"):
            raise UsageError("this user has no home directory; set XDG_CONFIG_HOME to a directory")
        return cls(Path(home, ".config", "offset"))

    def identity(self) -> Identity:
        """Return this machine's identity; create it at the first use.

        Raises:
            FileError: it cannot be read or written.
        """
        path = self.path / IDENTITY
        if not os.path.lexists(path):
            self.create()
            # If another stforward creates it at the same moment, use that one.
            try:
                save_identity(Identity.generate(), path)
            except FileError:
                if not path.exists():
                    raise
        return load_identity(path)

    def relay(self) -> RelayTicket:
        """Return the ticket of the relay that was used last.

        Raises:
            UsageError: no relay has been used yet.
            FileError: it cannot be read.
        """
        if not os.path.lexists(self.path / RELAY):
            raise UsageError(
                "no relay is known yet; give the ticket of one, as in: stforward share 22 --relay relay.relay"
            )
        return RelayTicket.load(self.path / RELAY)

    def remember_relay(self, ticket: RelayTicket) -> None:
        """Save the ticket of a relay for next time; raise FileError if it cannot be written."""
        self.write(RELAY, ticket.to_json())

    def read(self, name: str) -> str:
        """Return the content of a file, empty if it does not exist; raise FileError if it cannot be read."""
        path = self.path / name
        return read_file(path, MAX_SIZE) if os.path.lexists(path) else ""

    def write(self, name: str, content: str) -> None:
        """Replace a file, completely or not at all; raise FileError if it cannot be written."""
        self.create()
        path = self.path / name
        temporary = self.path / f".{name}-{secrets.token_hex(8)}"
        try:
            # Private at creation: a network file system may not let the mode be changed.
            with open(temporary, "x", encoding="utf-8", opener=_private) as file:
                file.write(content)
                file.flush()
                flush_to_disk(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise FileError(path, os_error_sentence(error)) from error

    def create(self) -> None:
        """Create the directory, for this user only, if it is missing; raise FileError if that fails."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except PermissionError as error:
            raise FileError(self.path, f"permission denied; {refusal(self.path)}") from error
        except OSError as error:
            advice = "check the path, or set XDG_CONFIG_HOME to a directory"
            reason = f"no directory can be created here ({error.strerror}); {advice}"
            raise FileError(self.path, reason) from error

    @contextmanager
    def changing(self, name: str) -> Iterator[None]:
        """Keep other processes from changing a file while the `with` block reads and writes it."""
        self.create()
        with _locked(self.path / f".{name}.lock", wait=True):
            yield


@contextmanager
def only_share(path: Path) -> Iterator[None]:
    """Keep other processes from sharing with this identity: the relay would close the older listener.

    Args:
        path: the identity file.

    Raises:
        ServiceError: another process already shares with it.
    """
    with _locked(path, wait=False):
        yield


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[None]:
    try:
        descriptor = _open_to_lock(path)
    except OSError as error:
        raise FileError(path, os_error_sentence(error)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ServiceError(
                f"another stforward already shares with {path}; let it share everything,"
                " or give this one another identity with --idfile FILE"
            ) from None
        except OSError:
            pass  # a file system without locks; they only prevent mistakes
        yield
    finally:
        os.close(descriptor)


def _open_to_lock(path: Path) -> int:
    """Open a file, and create it if it is missing."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # NFS locks only what is open for writing
    except OSError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)  # an identity file may be read-only


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)
