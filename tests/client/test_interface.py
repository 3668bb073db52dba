"""offset_common.client: the public interface is documented and typed."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from offset_common import client


@pytest.mark.parametrize("name", client.__all__)
def test_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(client, name))


@pytest.mark.parametrize("name", client.__all__)
def test_public_function_has_types(name: str) -> None:
    value = getattr(client, name)
    functions = [value] if inspect.isfunction(value) else []
    if inspect.isclass(value):
        methods = inspect.getmembers(value, inspect.isfunction)
        functions = [method for part, method in methods if part[0] != "_" and is_ours(method)]
    for function in functions:
        expected = {"return", *inspect.signature(function).parameters} - {"self", "cls"}
        assert set(function.__annotations__) - {"self", "cls"} == expected


def is_ours(function: Any) -> bool:
    """Return whether a function is defined in this project."""
    return str(function.__module__).startswith("offset_common.")
