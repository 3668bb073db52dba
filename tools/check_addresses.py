"""Check ADDRESS and LADDR before `make run` creates an environment; needs only the standard library."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common.address import parse_listen_address, parse_public_address
from offset_common.errors import UsageError
from offset_common.option_values import naming


def main() -> None:
    """Exit with the error of the first invalid address; an empty one is valid."""
    address, laddr = os.environ.get("ADDRESS", ""), os.environ.get("LADDR", "")
    try:
        if address:
            with naming("ADDRESS"):
                parse_public_address(address)
        if laddr:
            with naming("LADDR"):
                parse_listen_address(laddr)
    except UsageError as error:
        sys.exit(f"make run: {error}")


if __name__ == "__main__":
    main()
