"""Fields: the JSON object of a file, and how invalid ones are reported."""

from __future__ import annotations

import sys

import pytest

from offset_common.errors import FileError
from offset_common.fields import Fields


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        (" \n", "the file is empty"),
        ("hello", "not an Offset file; check its name"),
        ("{", "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ('{"a": NaN}', "not valid JSON: NaN is not a JSON value"),
        ('{"a": 1, "a": 1}', "not valid JSON: it has a duplicate key"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        # Python 3.14 nests as deeply as its stack allows, and finds that the end is missing.
        ("[" * 60000, "not valid JSON" if sys.version_info >= (3, 14) else "is nested too deeply"),
        ("[]", "the file contains a list, not a JSON object"),
    ],
)
def test_invalid_json_is_explained(text, reason):
    with pytest.raises(FileError, match=r"^the\.file: ") as caught:
        Fields.parse("the.file", text)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 220
