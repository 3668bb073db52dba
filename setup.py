"""Installs the relay and its file tool as the commands strelay and stmgr."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def read_version() -> str:
    """Return the version that offset_common/__init__.py names."""
    text = (HERE / "offset_common" / "__init__.py").read_text("utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("offset_common/__init__.py names no version")
    return found.group(1)


# QR codes of tickets.
QR = ["segno"]
# Configuration files; the standard library reads them from Python 3.11 on.
CONFIG = ['tomli; python_version < "3.11"']
# /metrics of a relay with --status.
METRICS = ["prometheus-client"]
# What the suite needs on any Python, and what it has for oracles: wheels of the oracles come later for some.
TEST = ["pytest", "pytest-cov", "pytest-timeout", "hypothesis", *QR, *METRICS, *CONFIG]
ORACLES = ["pycapnp", 'zxing-cpp; python_version >= "3.10"']  # Cap'n Proto; a reader of QR codes beside zbar
BROWSER = ["selenium"]  # drives the system's chromium
CHECK = ["ruff", "mypy", 'import-linter; python_version >= "3.10"']
# What draws docs/performance.svg.
PLOTS = ["matplotlib"]

setup(
    name="offset-relay",
    version=read_version(),
    description="An Offset relay, its file tool, and a node's side of the protocol",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.9",
    packages=find_packages(include=["offset_common", "offset_common.*"]),
    package_data={"offset_common": ["py.typed", "status/page.html"]},
    py_modules=["strelay", "stmgr"],
    entry_points={"console_scripts": ["strelay=strelay:main", "stmgr=stmgr:main"]},
    # docopt-ng is the maintained docopt; Debian's python3-docopt is the same module and works as well.
    install_requires=["cryptography>=38", "docopt-ng"],
    extras_require={
        "qr": QR,
        "metrics": METRICS,
        "config": CONFIG,
        "test": TEST,
        "dev": TEST + ORACLES + BROWSER + CHECK,
        "plots": PLOTS,
    },
    classifiers=[
        "Environment :: Console",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Internet :: Proxy Servers",
    ],
)
