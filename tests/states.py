"""Checkpoints compared leaf by leaf."""

from collections.abc import Iterator
from typing import Any


def leaves(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dicts and lists that is neither, with where it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{place}")
    else:
        yield path, value
