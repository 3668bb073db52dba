"""Runs the relay with rekeys that are not an hour apart.

python -m tests.attack.hurried SECONDS PYTHON strelay.py OPTION...
"""

from __future__ import annotations

import sys

import strelay
from offset_common.channel import secure_channel

if __name__ == "__main__":
    setattr(secure_channel, "REKEY_INTERVAL", float(sys.argv[1]))  # noqa: B010
    sys.exit(strelay.main(sys.argv[4:]))
