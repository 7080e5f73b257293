"""Values that JSON has no word for as JSON, with their type tags (milepost.tags) beside it."""

import base64
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Final, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from milepost.refusal import RefusedError
from milepost.tags import Model, Node, is_model, look_up
from milepost.wire.values import JSON, MAX_DEPTH

Scalar = tuple[str, Callable[[Any], str]]


MICROSECONDS: Final = 1_000_000


def dump(value: object, check: Callable[[object], None]) -> tuple[JSON, Node | None]:
    """Make a value JSON, with its tags (None: it needs none). `check` refuses a plain leaf that can't be recorded.

    Raises:
        RefusedError: some part can't be recorded.
    """
    data, node = _Dumper(check).any(value, 0)
    return data, _pruned(node)


class _Plain:
    """Nodes that say nothing: of null, which fits every other, and of a plain value."""

    NULL: Final = "null"
    PLAIN: Final = "plain"


_Building = dict[str, Any] | str


class _Dumper:
    def __init__(self, check: Callable[[object], None]) -> None:
        self._check = check
        self._above: set[int] = set()

    def any(self, value: object, depth: int) -> tuple[JSON, _Building]:
        kind = type(value)
        if value is None:
            return None, _Plain.NULL
        if kind in _SCALARS or isinstance(value, UUID):
            name, write = _SCALARS[UUID if isinstance(value, UUID) else kind]
            return write(value), "" + name
        if isinstance(value, (datetime, time)):
            return _moment(value)
        if isinstance(value, Enum):
            data, node = self.any(value.value, depth)
            return data, {"t": f"enum {class_name(kind)}", "v": node}
        if is_model(kind):
            return _model(cast("Model", value))
        if kind in {list, dict, tuple, set, frozenset} or (is_dataclass(value) and not isinstance(value, type)):
            return self._container(value, kind, depth)
        self._check(value)
        return cast("JSON", value), _Plain.PLAIN

    def _container(self, value: object, kind: type, depth: int) -> tuple[JSON, _Building]:
        if id(value) in self._above:
            raise RefusedError(kind.__name__, "circular", "contains itself")
        if depth >= MAX_DEPTH:
            raise RefusedError(kind.__name__, "too-deep", f"nested more than {MAX_DEPTH} levels deep")
        self._above.add(id(value))
        try:
            if isinstance(value, dict):
                return self._members(value, depth)
            if isinstance(value, (list, tuple, set, frozenset)):
                return self._items(value, kind, depth)
            named = class_name(kind)
            members = {one.name: getattr(value, one.name) for one in fields(cast("Any", value))}
            data, node = self._members(members, depth)
            return data, {**node, "t": f"data {named}"}
        finally:
            self._above.discard(id(value))

    def _members(self, members: dict[Any, object], depth: int) -> tuple[JSON, dict[str, Any]]:
        data: dict[str, JSON] = {}
        nodes: dict[str, _Building] = {}
        for key, item in members.items():
            if type(key) is not str:
                detail = f"the key {key!r} is not text: JSON objects have text keys only"
                raise RefusedError(type(key).__name__, "bad-key", detail, [key if isinstance(key, int) else repr(key)])
            data[key], nodes[key] = self._item(item, key, depth)
        return data, {"i": nodes}

    def _items(
        self, items: "list[Any] | tuple[Any, ...] | set[Any] | frozenset[Any]", kind: type, depth: int
    ) -> tuple[JSON, dict[str, Any]]:
        found = [self._item(item, index, depth) for index, item in enumerate(items)]
        if kind in {set, frozenset}:  # in an order of its own: the same set is the same text in every attempt
            found.sort(key=lambda one: json.dumps([one[0], one[1]], sort_keys=True))
        node: dict[str, Any] = {} if kind is list else {"t": kind.__name__}
        common: _Building | None = _Plain.NULL
        for _, one in found:
            common = None if common is None else _unified(common, one)
        if common is not None:
            node["*"] = common
        else:
            node["i"] = {str(index): one for index, (_, one) in enumerate(found)}
        return [data for data, _ in found], node

    def _item(self, item: object, part: str | int, depth: int) -> tuple[JSON, _Building]:
        try:
            return self.any(item, depth + 1)
        except RefusedError as refused:
            refused.parts.append(part)
            raise


def _unified(one: _Building, other: _Building) -> _Building | None:
    """The node that fits where either does; None when there is none."""
    if one in (_Plain.NULL, other):
        return other
    if other == _Plain.NULL:
        return one
    if isinstance(one, str) or isinstance(other, str) or one.keys() != other.keys() or one.get("t") != other.get("t"):
        return None
    merged: dict[str, Any] = {"t": one["t"]} if "t" in one else {}
    for part in ("*", "v"):
        if part in one:
            inner = _unified(one[part], other[part])
            if inner is None:
                return None
            merged[part] = inner
    if "i" in one:
        merged["i"] = dict(one["i"])
        for key, node in other["i"].items():
            inner = _unified(merged["i"].get(key, _Plain.NULL), node)
            if inner is None:
                return None
            merged["i"][key] = inner
    return merged


def _pruned(node: _Building) -> Node | None:
    """Without what says nothing; None when nothing is left."""
    if isinstance(node, str):
        return None if node in {_Plain.NULL, _Plain.PLAIN} else node
    kept: dict[str, Any] = {"t": node["t"]} if "t" in node else {}
    for part in ("*", "v"):
        if part in node and (inner := _pruned(node[part])) is not None:
            kept[part] = inner
    items = {key: inner for key, one in node.get("i", {}).items() if (inner := _pruned(one)) is not None}
    if items:
        kept["i"] = items
    return kept or None


def class_name(cls: type) -> str:
    """`module:Qualname`. Raises RefusedError when a later attempt could not find the class by it."""
    named = f"{cls.__module__}:{cls.__qualname__}"
    if look_up(named) is not cls:
        detail = f"a later attempt can't find {cls.__qualname__}: define it at the top of a module"
        raise RefusedError(cls.__qualname__, "not-importable", detail)
    return named


def _model(value: Model) -> tuple[JSON, Node]:
    named = class_name(type(value))
    try:
        text = value.model_dump_json()
        whole = type(value).model_validate_json(text) == value
    except ValueError as error:  # also pydantic's own errors
        raise RefusedError(named, "not-json-type", f"the model can't be written as JSON: {error}") from error
    if not whole:
        detail = "the model does not come back equal from its own JSON (an excluded or aliased field?)"
        raise RefusedError(named, "not-json-type", detail)
    data: JSON = json.loads(text)
    return data, {"t": f"model {named}"}


def _moment(value: datetime | time) -> tuple[str, str]:
    name = "datetime" if isinstance(value, datetime) else "time"
    zone = value.tzinfo
    if type(value) not in {datetime, time} or not (zone is None or type(zone) in {timezone, ZoneInfo}):
        of = value if zone is None else zone
        kind = f"{type(of).__module__}.{type(of).__qualname__}"
        detail = f"a {kind} would not come back as it is: use datetime with zoneinfo.ZoneInfo or datetime.timezone"
        raise RefusedError(kind, "not-json-type", detail)
    if isinstance(zone, timezone) and zone.utcoffset(None).microseconds:
        raise RefusedError("timezone", "not-json-type", f"ISO 8601 has no word for the offset {zone}")
    if not isinstance(zone, ZoneInfo):
        return value.isoformat(), name if value.fold == 0 else f"{name} fold"
    if zone.key is None:
        raise RefusedError("ZoneInfo", "not-json-type", "the zone has no name: use ZoneInfo('Area/City')")
    text = value.isoformat() if isinstance(value, datetime) else value.replace(tzinfo=None).isoformat()
    return text, f"{name} {zone.key}" if value.fold == 0 else f"{name} {zone.key} fold"


def _write_decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise RefusedError("Decimal", "not-finite", f"{value} is no number: use None or text")
    return str(value)


def _write_timedelta(value: timedelta) -> str:
    whole = (value.days * 86400 + value.seconds) * MICROSECONDS + value.microseconds
    return f"{'-' if whole < 0 else ''}{abs(whole) // MICROSECONDS}.{abs(whole) % MICROSECONDS:06d}"


_SCALARS: Final[dict[type, Scalar]] = {
    date: ("date", date.isoformat),
    timedelta: ("timedelta", _write_timedelta),
    UUID: ("uuid", str),
    Decimal: ("decimal", _write_decimal),
    bytes: ("bytes", lambda value: base64.b64encode(value).decode()),
}
