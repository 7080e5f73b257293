"""Recorded JSON as an annotation says it: what was written by another program, or before a class was renamed, too.

What the annotation leaves open (`Any`, a type variable, none at all) is read by its type tags. What does not fit raises
ValueMismatchError with the place.
"""

import sys
import types
import typing
from collections import abc
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from milepost.errors import ValueMismatchError
from milepost.tags import (
    FRESH,
    Node,
    construct,
    find_class,
    is_model,
    load,
    make_dataclass,
    make_enum,
    make_model,
    read_scalar,
    tag_of,
)
from milepost.wire.values import JSON, member

Reader = Callable[[JSON, Node | None], Any]

_SCALARS: Final = {
    datetime: "datetime",
    date: "date",
    time: "time",
    timedelta: "timedelta",
    UUID: "uuid",
    Decimal: "decimal",
    bytes: "bytes",
}
LISTS: Final = {list, abc.Sequence, abc.Iterable, abc.Collection, abc.MutableSequence}
SETS: Final[dict[object, Callable[[Any], object]]] = {
    set: set,
    frozenset: frozenset,
    abc.Set: frozenset,
    abc.MutableSet: set,
}
DICTS: Final = {dict, abc.Mapping, abc.MutableMapping}


class _MisfitError(Exception):
    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.parts: list[str | int] = []


def read(data: JSON, node: Node | None, annotation: object) -> Any:
    """The value as its annotation says. Raises ValueMismatchError, naming the place."""
    try:
        return _reader(annotation)(data, node)
    except _MisfitError as misfit:
        path = "$"
        for part in reversed(misfit.parts):
            path = member(path, part) if isinstance(part, str) else f"{path}[{part}]"
        raise ValueMismatchError(f"{path}: {misfit}") from misfit.__cause__


def _reader(annotation: object) -> Reader:
    try:
        return _cached(annotation)
    except TypeError:  # not hashable, such as Annotated[int, []]
        return _made(annotation)


@lru_cache(maxsize=1024)
def _cached(annotation: object) -> Reader:
    return _made(annotation)


def _made(annotation: object) -> Reader:
    if annotation is None or annotation is type(None):
        return _none
    if isinstance(annotation, type) and (simple := _made_of_class(annotation)) is not None:
        return simple
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _reader(typing.get_args(annotation)[0])
    if isinstance(annotation, typing.NewType):
        return _reader(annotation.__supertype__)
    if origin is typing.Union or isinstance(annotation, types.UnionType):
        return _union(typing.get_args(annotation))
    if origin is typing.Literal:
        return _literal(typing.get_args(annotation))
    return _made_of_generic(origin, typing.get_args(annotation))


def _made_of_class(cls: type) -> Reader | None:
    if typing.get_origin(cls) is not None:  # list[int] is a type to isinstance
        return None
    if cls in {bool, str}:
        return _exactly(cls)
    if cls is int:
        return _int
    if cls is float:
        return _float
    if cls in _SCALARS:
        return _scalar(cls, _SCALARS[cls])
    if issubclass(cls, Enum):
        return lambda data, node: make_enum(cls, _enum_value(data, node))
    if is_model(cls):
        return lambda data, node: make_model(_of_tag(node, "model", cls), data)
    if is_dataclass(cls):
        return _dataclass(cls)
    if typing.is_typeddict(cls):
        return _typed_dict(cls)
    if cls in {list, dict, tuple, set, frozenset}:
        return _made_of_generic(cls, ())
    return None


def _made_of_generic(origin: object, args: tuple[object, ...]) -> Reader:
    if origin in LISTS:
        return _list(_reader(args[0]) if args else load, list)
    if origin in SETS:
        return _list(_reader(args[0]) if args else load, SETS[origin])
    if origin in DICTS:
        return _dict(_reader(args[1]) if args else load)
    if origin is tuple:
        if not args or (len(args) == 2 and args[1] is Ellipsis):  # noqa: PLR2004
            return _list(_reader(args[0]) if args else load, tuple)
        return _tuple([_reader(one) for one in args])
    if isinstance(origin, type) and is_dataclass(origin):
        return _dataclass(origin)
    return load


def _kind(data: JSON) -> str:
    return {dict: "an object", list: "a list", type(None): "null"}.get(
        type(data), f"{type(data).__name__} {data!r:.80}"
    )


def _none(data: JSON, _node: Node | None) -> None:
    if data is not None:
        raise _MisfitError(f"the record holds {_kind(data)} where the annotation says None")


def _exactly(cls: type) -> Reader:
    def check(data: JSON, _node: Node | None) -> object:
        if type(data) is not cls:
            raise _MisfitError(f"the record holds {_kind(data)} where the annotation says {cls.__name__}")
        return data

    return check


def _int(data: JSON, _node: Node | None) -> object:
    if type(data) is int:
        return data
    if isinstance(data, float) and data.is_integer():  # 1.0 is 1 to JSON
        return int(data)
    raise _MisfitError(f"the record holds {_kind(data)} where the annotation says int")


def _float(data: JSON, _node: Node | None) -> object:
    if type(data) not in {float, int}:
        raise _MisfitError(f"the record holds {_kind(data)} where the annotation says float")
    return data


def _scalar(cls: type, name: str) -> Reader:
    def convert(data: JSON, node: Node | None) -> object:
        try:
            value = read_scalar(node if isinstance(node, str) else name, data)
        except ValueMismatchError as error:
            raise _MisfitError(str(error)) from None
        if not isinstance(value, cls) or (cls is date and isinstance(value, datetime)):
            raise _MisfitError(f"the record holds {value!r:.80} where the annotation says {cls.__name__}")
        return value

    return convert


def _enum_value(data: JSON, node: Node | None) -> object:
    return load(data, node.get("v") if isinstance(node, dict) else None)


def _of_tag(node: Node | None, kind: str, wanted: type) -> type:
    """The class to make: the recorded one where it is a subclass of the annotation's."""
    tag = str(node.get("t", "")) if isinstance(node, dict) else ""
    if tag.startswith(f"{kind} ") and tag != f"{kind} {wanted.__module__}:{wanted.__qualname__}":
        try:
            found = find_class(tag.removeprefix(f"{kind} "))
        except ValueMismatchError:
            return wanted  # renamed or moved since
        if issubclass(found, wanted):
            return found
    return wanted


def _dataclass(cls: type) -> Reader:
    def convert(data: JSON, node: Node | None) -> object:
        if not isinstance(data, dict):
            raise _MisfitError(f"the record holds {_kind(data)} where the annotation says {cls.__qualname__}")
        own = _of_tag(node, "data", cls)
        hints = hints_of(own)
        members = {key: _part(_reader(hints.get(key, Any)), item, tag_of(node, key), key) for key, item in data.items()}
        try:
            return construct(own, members) if node is FRESH else make_dataclass(own, members)
        except ValueMismatchError as error:
            raise _MisfitError(str(error)) from None

    return convert


@lru_cache(maxsize=256)
def hints_of(cls: type) -> dict[str, object]:
    """Annotations of a class's members; Any where they can't be worked out."""
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError, AttributeError):
        return {one.name: Any for one in fields(cls)} if is_dataclass(cls) else {}


def _typed_dict(cls: type) -> Reader:
    required: frozenset[str] = getattr(cls, "__required_keys__", frozenset())

    def convert(data: JSON, node: Node | None) -> object:
        if not isinstance(data, dict):
            raise _MisfitError(f"the record holds {_kind(data)} where the annotation says {cls.__qualname__}")
        if missing := sorted(required - data.keys()):
            raise _MisfitError(f"{cls.__qualname__} needs {missing[0]!r}, which the record does not have")
        hints = hints_of(cls)
        return {key: _part(_reader(hints.get(key, Any)), item, tag_of(node, key), key) for key, item in data.items()}

    return convert


def _list(item: Reader, make: Callable[[Any], object]) -> Reader:
    def convert(data: JSON, node: Node | None) -> object:
        if not isinstance(data, list):
            raise _MisfitError(f"the record holds {_kind(data)} where the annotation says a collection")
        made = [_part(item, one, tag_of(node, index), index) for index, one in enumerate(data)]
        try:
            return made if make is list else make(made)
        except TypeError as error:  # a set of what can't be hashed
            raise _MisfitError(f"the record holds what no set can: {error}") from None

    return convert


def _tuple(items: list[Reader]) -> Reader:
    def convert(data: JSON, node: Node | None) -> object:
        if not isinstance(data, list) or len(data) != len(items):
            raise _MisfitError(f"the record holds {_kind(data)} where the annotation says a tuple of {len(items)}")
        return tuple(
            _part(item, one, tag_of(node, index), index)
            for index, (item, one) in enumerate(zip(items, data, strict=True))
        )

    return convert


def _dict(item: Reader) -> Reader:
    def convert(data: JSON, node: Node | None) -> object:
        if not isinstance(data, dict):
            raise _MisfitError(f"the record holds {_kind(data)} where the annotation says a dict")
        return {key: _part(item, one, tag_of(node, key), key) for key, one in data.items()}

    return convert


def _literal(allowed: tuple[object, ...]) -> Reader:
    def check(data: JSON, node: Node | None) -> object:
        value = load(data, node)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        for one in allowed:
            if value == one and type(value) is type(one):
                return value
            if isinstance(one, Enum) and node is FRESH and value == one.value and type(value) is type(one.value):
                return one
        raise _MisfitError(f"the record holds {value!r:.80}, which is none of {list(allowed)}")

    return check


def _union(members: tuple[object, ...]) -> Reader:
    """The first member that the tagged value is an instance of; else the first that the JSON can be read as."""
    readers = [(one, _reader(one)) for one in members]

    def convert(data: JSON, node: Node | None) -> object:
        tagged = type(load(data, node)) if node is not None and _is_loadable(node) else type(data)
        first = [read_as for one, read_as in readers if one is tagged or typing.get_origin(one) is tagged]
        for read_as in [*first, *(read_as for _, read_as in readers)]:
            try:
                return read_as(data, node)
            except (_MisfitError, ValueMismatchError):
                continue
        names = " | ".join(getattr(one, "__name__", str(one)) for one, _ in readers)
        raise _MisfitError(f"the record holds {_kind(data)}, which fits none of {names}")

    return convert


def _is_loadable(node: Node) -> bool:
    """Whether its class, if it has one, is there."""
    _, _, named = (str(node.get("t", "")) if isinstance(node, dict) else "").partition(" ")
    return not named or named.partition(":")[0] in sys.modules


def _part(reader: Reader, data: JSON, node: Node | None, part: str | int) -> object:
    try:
        return reader(data, node)
    except _MisfitError as misfit:
        misfit.parts.append(part)
        raise
    except ValueMismatchError as error:
        told = _MisfitError(str(error))
        told.parts.append(part)
        raise told from error
