"""Reading raw Kubernetes objects (dicts of JSON) without trusting their shape: what is missing reads as empty."""

from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

Object: TypeAlias = Mapping[str, object]
"""A Kubernetes object, or a part of one, as decoded JSON."""
Manifest: TypeAlias = dict[str, object]
"""An object we make."""


def at(value: object, *path: str) -> object:
    """What is at `path` within nested objects; None when it isn't there."""
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def text(value: object, *path: str) -> str:
    """The string at `path`; empty when there is none."""
    found = at(value, *path)
    return found if isinstance(found, str) else ""


def number(value: object, *path: str) -> int | None:
    """The integer at `path`."""
    found = at(value, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def flag(value: object, *path: str) -> bool:
    """Whether there is a `true` at `path`."""
    return at(value, *path) is True


def part(value: object, *path: str) -> Object:
    """The object at `path`; an empty one when there is none."""
    found = at(value, *path)
    return found if isinstance(found, Mapping) else {}


def parts(value: object, *path: str) -> list[Object]:
    """The objects in the list at `path`."""
    found = at(value, *path)
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def when(value: object, *path: str) -> datetime | None:
    """The RFC 3339 time at `path`."""
    try:
        return datetime.fromisoformat(text(value, *path))
    except ValueError:
        return None


def name(value: Object) -> str:
    return text(value, "metadata", "name")


def namespace(value: Object) -> str:
    return text(value, "metadata", "namespace")


def uid(value: Object) -> str:
    return text(value, "metadata", "uid")


def label(value: Object, key: str) -> str:
    return text(value, "metadata", "labels", key)


def condition(value: Object, kind: str) -> Object:
    """The status condition of this type, or an empty object."""
    return next((c for c in parts(value, "status", "conditions") if c.get("type") == kind), {})


def holds(value: Object, kind: str) -> bool:
    """Whether the condition of this type is True."""
    return condition(value, kind).get("status") == "True"
