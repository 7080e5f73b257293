"""Type tags: what makes recorded JSON the values again that it was made of.

A tag node is the name of a scalar's type (`"datetime"`), or an object: `t` names the container's type where it is not
a plain list or dict, `i` holds the nodes of its items by key or index, and `*` one node for all items of a list. Null
fits every node. A class is named `module:Qualname`, and is looked up among the modules that the task has imported.
"""

import base64
import json
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import EnumType
from typing import Any, Final, Protocol, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from milepost.errors import ValueMismatchError
from milepost.wire.values import JSON

Node = dict[str, Any] | str
"""A tag, or the tags of a container's items: JSON."""
FRESH: Final[dict[str, Any]] = {}
FRESH["*"] = FRESH
"""Stands for the tags of JSON that was never recorded, down to its last item: classes are made by their `__init__`."""


class Model(Protocol):
    """A pydantic model, as far as it is used here."""

    def model_dump_json(self) -> str: ...
    @classmethod
    def model_validate_json(cls, data: str) -> "Model": ...


def is_model(cls: object) -> bool:
    """Whether it is a class of pydantic's (2.x). pydantic itself is never imported for it."""
    return isinstance(cls, type) and hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_validate_json")


def load(data: JSON, node: Node | None) -> object:
    """Make a value whole again. Raises ValueMismatchError when a tag is unknown, or its class is gone or changed."""
    if node is None or node is FRESH or data is None:
        return data
    if isinstance(node, str):
        return read_scalar(node, data)
    kind, _, named = str(node.get("t", "")).partition(" ")
    if kind in {"enum", "data", "model"}:
        return _instance(kind, named, data, node)
    if isinstance(data, dict):
        return _loaded_members(data, node)
    if isinstance(data, list):
        items = [load(item, tag_of(node, index)) for index, item in enumerate(data)]
        return items if not kind else _COLLECTIONS[kind](items)
    raise ValueMismatchError(f"the record has type tags of a container and holds {type(data).__name__}")


def tag_of(node: Node | None, part: str | int) -> Node | None:
    """The tag of one item."""
    if not isinstance(node, dict):
        return None
    found: Node | None = node.get("*") if "*" in node else node.get("i", {}).get(str(part))
    return found


def _loaded_members(data: dict[str, JSON], node: Node) -> dict[str, object]:
    return {key: load(item, tag_of(node, key)) for key, item in data.items()}


def _instance(kind: str, named: str, data: JSON, node: dict[str, Any]) -> object:
    cls = find_class(named)
    if kind == "enum":
        return make_enum(cls, load(data, node.get("v")))
    if kind == "model":
        return make_model(cls, data)
    if not isinstance(data, dict):
        raise ValueMismatchError(f"the record of {named} holds {type(data).__name__}, not an object")
    return make_dataclass(cls, _loaded_members(data, node))


def make_enum(cls: Any, value: object) -> object:
    """The member with a value. Raises ValueMismatchError."""
    if not isinstance(cls, EnumType):
        raise ValueMismatchError(f"{cls.__qualname__} is no enumeration, and the record has a member of one")
    try:
        return cls(tuple(value) if isinstance(value, list) else value)  # a member's value is hashable
    except (TypeError, ValueError):
        raise ValueMismatchError(f"{cls.__qualname__} has no member with the recorded value {value!r}") from None


def make_model(cls: Any, data: JSON) -> object:
    """A pydantic model from the JSON it was recorded as. Raises ValueMismatchError."""
    if not is_model(cls):
        raise ValueMismatchError(f"{cls.__qualname__} is no pydantic model, and the record holds one")
    try:
        return cls.model_validate_json(json.dumps(data))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueMismatchError(f"the record does not fit {cls.__qualname__}: {error}") from error


def make_dataclass(cls: Any, members: dict[str, object]) -> object:
    """An instance with these fields, as it was: neither `__init__` nor `__post_init__` runs again.

    A field that is new since takes its default. Raises ValueMismatchError for one without, or one that is gone.
    """
    if not isinstance(cls, type) or not is_dataclass(cls):
        raise ValueMismatchError(
            f"{getattr(cls, '__qualname__', cls)} was a dataclass when it was recorded and is none now"
        )
    known = {one.name: one for one in fields(cls)}
    if gone := sorted(members.keys() - known.keys()):
        raise ValueMismatchError(f"{cls.__qualname__} has no field {gone[0]!r} any more, which the record holds")
    made = object.__new__(cast("type[object]", cls))
    for name, one in known.items():
        if name in members:
            value = members[name]
        elif one.default is not MISSING:
            value = one.default
        elif one.default_factory is not MISSING:
            value = one.default_factory()
        else:
            detail = f"the field {cls.__qualname__}.{name} is new and has no default: the record has no value for it"
            raise ValueMismatchError(detail)
        object.__setattr__(made, name, value)
    return made


def construct(cls: Any, members: dict[str, object]) -> object:
    """A new instance, by its own `__init__`: of JSON that was never one. Raises ValueMismatchError."""
    known = {one.name for one in fields(cls) if one.init}
    if unknown := sorted(members.keys() - known):
        raise ValueMismatchError(f"{cls.__qualname__} has no field {unknown[0]!r}")
    try:
        made: object = cls(**members)
    except (TypeError, ValueError) as error:
        raise ValueMismatchError(f"{cls.__qualname__} can't be made of it: {error}") from error
    return made


def find_class(named: str) -> type:
    """The class of a tag, among what is imported. Raises ValueMismatchError."""
    found = look_up(named)
    if not isinstance(found, type):
        module, _, qualname = named.partition(":")
        detail = f"the record holds a {qualname} of {module}, which is not there: import it where the task is defined"
        raise ValueMismatchError(detail)
    return found


def look_up(named: str) -> object:
    """What a class's name stands for now; None when it is not there."""
    module, _, qualname = named.partition(":")
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def read_scalar(tag: str, data: JSON) -> object:
    """The value of a scalar's tag. Raises ValueMismatchError."""
    name, *more = tag.split(" ")
    read = _READERS.get(name)
    if read is None or not isinstance(data, str):
        raise ValueMismatchError(f"the record has the type tag {tag!r} on {type(data).__name__}: unknown here")
    try:
        value = read(data)
        if not more or not isinstance(value, (datetime, time)):
            return value
        fold = int(more[-1] == "fold")
        zone = ZoneInfo(more[0]) if more[0] != "fold" else value.tzinfo
        return value.replace(tzinfo=zone, fold=fold)
    except (ValueError, ArithmeticError, OSError) as error:  # OSError: zoneinfo on a name that is a directory
        raise ValueMismatchError(f"{data[:80]!r} can't be read as {tag}: {error}") from error


def _read_timedelta(text: str) -> timedelta:
    whole, _, part = text.removeprefix("-").partition(".")
    size = timedelta(seconds=int(whole), microseconds=int(part[:6].ljust(6, "0")))
    return -size if text.startswith("-") else size


_READERS: Final[dict[str, Callable[[str], object]]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": _read_timedelta,
    "uuid": UUID,
    "decimal": Decimal,
    "bytes": lambda text: base64.b64decode(text, validate=True),
}


_COLLECTIONS: Final[dict[str, Callable[[list[Any]], object]]] = {"tuple": tuple, "set": set, "frozenset": frozenset}
