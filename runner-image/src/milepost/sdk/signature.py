"""What a step's function says of its result."""

import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any


def returned(fn: Callable[..., object]) -> object:
    """The annotation of what a function returns; `Any` when it says nothing, or nothing that can be resolved here."""
    hints = getattr(fn, "__annotations__", None)
    if not hints or "return" not in hints:
        return Any
    found = hints["return"]
    return _resolved(fn) if isinstance(found, str) else found


@lru_cache(maxsize=512)
def _resolved(fn: Callable[..., object]) -> object:
    try:
        return typing.get_type_hints(fn, include_extras=False)["return"]
    except (NameError, TypeError, AttributeError):
        return Any  # names that only type checkers see: the tags know
