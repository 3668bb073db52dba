"""The options of a policy on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from offset_common.option_values import read_size
from offset_common.policy.steering import PolicyOptions

MIN_RATE = 1000  # bytes a second
MAX_BYTES = 10**15


def read_policy_options(arguments: Mapping[str, Any]) -> PolicyOptions:
    """Return the options of the policy; no file is read.

    Args:
        arguments: by option name, as docopt returns them.

    Raises:
        UsageError: a value is invalid.
    """

    def read_bytes(option: str, least: int) -> Optional[int]:
        text = arguments[option]
        return None if text is None else read_size(option, text, least, MAX_BYTES)

    return PolicyOptions(
        access=arguments["--access"],
        rate=read_bytes("--rate", MIN_RATE),
        rate_per_key=read_bytes("--rate-per-key", MIN_RATE),
        quota=read_bytes("--quota", 1),
        quota_per_key=read_bytes("--quota-per-key", 1),
        usage=arguments["--usage"],
    )
