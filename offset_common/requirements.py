"""Check what the scripts need before they import anything else.

An old Python also reads this file and the scripts, to report that it is too old. So they must parse on Python
2.7: no f-strings, and annotations as comments.
"""

# ruff: noqa: UP031

import sys
import warnings

OLDEST_PYTHON = (3, 9)

PIP = "python3 -m venv .venv && .venv/bin/pip install cryptography docopt-ng, then use .venv/bin/python"
APT = "apt-get install python3-cryptography python3-docopt"

# Releases of docopt-ng that find options only in a section "Options:"; docopt 0.6.2 finds them anywhere.
UNFIT_DOCOPT = ("0.6.3", "0.7.", "0.8.")

# The programs that need a Unix system, and what they need from it.
UNIX_PROGRAMS = {"strelay": "the relay", "stforward": "stforward"}
UNIX_MODULES = ("fcntl", "resource", "termios")
UNIX_SOCKET_NAMES = ("MSG_DONTWAIT",)


def check(program):
    # type: (str) -> None
    """End the process with one line on stderr if this machine lacks something.

    Args:
        program: "stmgr", "strelay" or "stforward".

    Raises:
        SystemExit: something is missing; the exit status is 1.
    """
    problem = python_problem() or package_problem() or algorithm_problem()
    if program in UNIX_PROGRAMS:
        problem = problem or system_problem(UNIX_PROGRAMS[program])
    if problem:
        if sys.stderr is not None:
            sys.stderr.write("%s: %s\n" % (program, problem))
        sys.exit(1)


def python_problem():
    # type: () -> str
    """Return what is wrong with the version or the options of Python, or an empty string."""
    if sys.version_info < OLDEST_PYTHON:
        return (
            "this is Python %s, too old for Offset; use Python %s or newer: python3 of Debian 11 or newer"
            " (apt-get install python3), or one from python.org"
            % (_dotted(sys.version_info[:3]), _dotted(OLDEST_PYTHON))
        )
    if sys.flags.optimize > 1:
        return (
            "with -OO or PYTHONOPTIMIZE=2, Python removes the help page, which defines the arguments;"
            " run this program without either"
        )
    return ""


def package_problem():
    # type: () -> str
    """Return which package is missing, or an empty string."""
    for name, module in (("cryptography", "cryptography.exceptions"), ("docopt", "docopt")):
        try:
            # Python 3.12 and newer warn about docopt 0.6.2.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                __import__(module)
        except (KeyboardInterrupt, SystemExit):
            raise
        # A package for another Python may raise SyntaxError, or PanicException, which is not an Exception.
        except BaseException as error:
            return _import_problem(name, error)
    version = getattr(sys.modules["docopt"], "__version__", "")
    if version.startswith(UNFIT_DOCOPT):
        return (
            "the package docopt-ng %s is too old for Offset; upgrade it (pip install --upgrade docopt-ng), or"
            " use a new virtual environment (%s)" % (version, PIP)
        )
    return ""


def algorithm_problem():
    # type: () -> str
    """Return which algorithm this OpenSSL refuses, as in FIPS mode, or an empty string."""
    for name, try_algorithm in ALGORITHMS:
        try:
            try_algorithm()
        except (KeyboardInterrupt, SystemExit):
            raise
        # A broken build of cryptography raises PanicException, which is not an Exception.
        except BaseException as error:
            if isinstance(error, ImportError):  # a part of it, such as _cffi_backend, or what it needs
                return _import_problem("cryptography", error)
            return (
                "the package cryptography has no %s (%s), perhaps because its OpenSSL is in FIPS mode;"
                " use the one from pip, which has its own OpenSSL (%s), or Debian's on a system without"
                " FIPS mode (%s)" % (name, _reason(error), PIP, APT)
            )
    return ""


def system_problem(name="the relay"):
    # type: (str) -> str
    """Return what this operating system lacks for a program with that name, or an empty string."""
    import socket

    missing = [name for name in UNIX_MODULES if not _can_import(name)]
    missing += ["socket." + name for name in UNIX_SOCKET_NAMES if not hasattr(socket, name)]
    if not missing:
        return ""
    return "this system has no %s; run %s on Linux, macOS or another Unix (stmgr and clients work here)" % (
        ", ".join(missing),
        name,
    )


def _try_ed25519():
    # type: () -> None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    key.public_key().verify(key.sign(b""), b"")


def _try_x25519():
    # type: () -> None
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = X25519PrivateKey.generate()
    key.exchange(key.public_key())


def _try_chacha20_poly1305():
    # type: () -> None
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    ChaCha20Poly1305(bytes(32)).encrypt(bytes(12), b"", None)


def _try_sha512_256():
    # type: () -> None
    from cryptography.hazmat.primitives.hashes import SHA512_256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    HKDF(SHA512_256(), 32, b"", b"").derive(b"")


ALGORITHMS = (
    ("Ed25519", _try_ed25519),
    ("X25519", _try_x25519),
    ("ChaCha20-Poly1305", _try_chacha20_poly1305),
    ("SHA-512/256", _try_sha512_256),
)


def _import_problem(name, error):
    # type: (str, BaseException) -> str
    missing = getattr(error, "name", None) == name
    what = "is missing" if missing else "cannot be imported (%s)" % _reason(error)
    return "the package %s %s; %sinstall it in a virtual environment (%s), or as Debian's package (%s)" % (
        name,
        what,
        _made_python(),
        PIP,
        APT,
    )


def _reason(error):
    # type: (BaseException) -> str
    return " ".join(str(error).split()) or type(error).__name__


def _made_python():
    # type: () -> str
    """Return the advice to use the Python that `make run` made in this clone, or an empty string."""
    from pathlib import Path

    environment = Path(__file__).resolve().parent.parent / ".venv"
    made = environment / "bin/python"
    return "run this program with %s, or " % made if made.exists() and Path(sys.prefix) != environment else ""


def _can_import(name):
    # type: (str) -> bool
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def _dotted(version):
    # type: (tuple[object, ...]) -> str
    return ".".join(str(number) for number in version)
