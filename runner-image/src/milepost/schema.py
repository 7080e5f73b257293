"""JSON Schema (draft 2020-12) of annotations: what `TaskFunction.bind` takes, and what a result becomes.

Whatever the schema of an input accepts, `bind` accepts; where an annotation can't be told in a schema, anything goes.
pydantic is not imported: its models write their own.
"""

import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from inspect import Parameter
from typing import Any, Final, Literal, Protocol, cast
from uuid import UUID

from milepost import typed
from milepost.errors import MilepostError, ValueMismatchError
from milepost.sdk.task import TaskFunction
from milepost.tags import FRESH, is_model
from milepost.values import pack
from milepost.wire.values import JSON

Schema = dict[str, JSON]
Mode = Literal["validation", "serialization"]

_PLAIN: Final[dict[object, Schema]] = {
    None: {"type": "null"},
    type(None): {"type": "null"},
    bool: {"type": "boolean"},
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
    time: {"type": "string", "format": "time"},
    UUID: {"type": "string", "format": "uuid"},
    timedelta: {"type": "string", "pattern": r"^-?[0-9]{1,13}(\.[0-9]{1,6})?$", "description": "seconds"},
    Decimal: {"type": "string", "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?$"},
    bytes: {
        "type": "string",
        "contentEncoding": "base64",
        "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
    },
}
_BY_NAME: Final = {"properties", "patternProperties", "$defs", "dependentSchemas"}
_LISTS: Final = {"allOf", "anyOf", "oneOf", "prefixItems"}
_SINGLE: Final = {"items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else"}
_LOOK_AROUND: Final = r"(?!^[-+.]*$)"
"""In the pattern that pydantic writes for Decimal: the API's engine takes linear time and knows no look-around."""
_DECIMAL: Final = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)$"


class _Model(Protocol):
    @classmethod
    def model_json_schema(cls, *, ref_template: str, mode: Mode) -> Schema: ...


def input_schema(task: TaskFunction[..., object]) -> Schema | None:
    """The schema of a task's input; None when it takes anything."""
    maker = _Maker("validation")
    found = maker.whole(_of_input(task, maker))
    return found or None


def output_schema(task: TaskFunction[..., object]) -> Schema | None:
    """The schema of a task's result; None where its annotation says nothing of it."""
    if "return" not in task.binding.hints:
        return None
    maker = _Maker("serialization")
    return maker.whole(maker.of(task.binding.hints["return"])) or None


def schema_of(annotation: object, mode: Mode = "validation") -> Schema:
    """The schema of one annotation: of JSON that is read as it, or (`serialization`) that it is recorded as."""
    maker = _Maker(mode)
    return maker.whole(maker.of(annotation))


def _of_input(task: TaskFunction[..., object], maker: "_Maker") -> Schema:
    parameters = task.binding.parameters
    if task.binding.takes_objects():
        return maker.of(task.binding.hints.get(parameters[0].name, Any))
    choices = [_by_name(task, maker)]
    required = [one for one in parameters if _is_required(one)]
    first = parameters[0] if parameters else None
    positional = {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL}
    if not required or (len(parameters) == 1 and first is not None and first.kind in positional and _is_nullable(task)):
        choices.append({"type": "null"})
    if first is not None and first.kind in positional and required in ([], [first]):
        choices.append(_alone(maker.of(task.binding.hints.get(first.name, Any))))
    return _any_of(choices)


def _is_nullable(task: TaskFunction[..., object]) -> bool:
    try:
        typed.read(None, FRESH, task.binding.hints.get(task.binding.parameters[0].name, Any))
    except ValueMismatchError:
        return False
    return True


def _by_name(task: TaskFunction[..., object], maker: "_Maker") -> Schema:
    properties: Schema = {}
    needed: list[JSON] = []
    others: JSON = False
    for one in task.binding.parameters:
        annotation = task.binding.hints.get(one.name, Any)
        if one.kind is Parameter.VAR_KEYWORD:
            others = maker.of(annotation) or True
        elif one.kind in {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}:
            properties[one.name] = _with_default(maker.of(annotation), one.default)
        elif one.kind is Parameter.POSITIONAL_ONLY:
            properties[one.name] = False  # nor does `**others` take it by its name
        if _is_required(one):
            needed.append(one.name)
    made: Schema = {"type": "object", "properties": properties}
    if others is not False and task.binding.context_name:
        properties[task.binding.context_name] = False
    if needed:
        made["required"] = needed
    if others is not True:
        made["additionalProperties"] = others
    # an argument by position only can't be given by name
    unnamed = any(one.kind is Parameter.POSITIONAL_ONLY and _is_required(one) for one in task.binding.parameters)
    return {"not": {}} if unnamed else made


def _alone(schema: Schema) -> Schema:
    """For an input that is neither object nor null: those are arguments by name, and none."""
    given = schema.get("type", ["string", "number", "boolean", "array"])
    kept = [one for one in _names(given) if one not in {"object", "null"}]
    if not kept:
        return {"not": {}}
    return {**schema, "type": kept[0] if len(kept) == 1 else kept}


def _is_required(one: Parameter) -> bool:
    named = one.kind not in {Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL}
    return named and one.default is Parameter.empty


def _with_default(schema: Schema, default: object) -> Schema:
    plain = isinstance(default, (str, int, float, bool)) and type(default) in {str, int, float, bool}
    finite = not isinstance(default, float) or default - default == 0
    return {**schema, "default": cast("JSON", default)} if plain and finite else schema


class _Maker:
    """Schemas with the classes that they name, each once."""

    def __init__(self, mode: Mode) -> None:
        self._mode: Mode = mode
        self._definitions: Schema = {}
        self._names: dict[object, str] = {}

    def whole(self, schema: Schema) -> Schema:
        """With the definitions that it refers to."""
        return {**schema, "$defs": self._definitions} if self._definitions else schema

    def of(self, annotation: object) -> Schema:
        try:
            if annotation in _PLAIN:
                return dict(_PLAIN[annotation])
        except TypeError:  # not hashable, such as Annotated[int, []]
            return self.of(typing.get_args(annotation)[0])
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is typing.Annotated:
            return self.of(args[0])
        if isinstance(annotation, typing.NewType):
            return self.of(annotation.__supertype__)
        if origin is typing.Union or isinstance(annotation, types.UnionType):
            return _any_of([self.of(one) for one in args])
        if origin is Literal:
            return _enum(one.value if isinstance(one, Enum) else one for one in args)
        if isinstance(annotation, type) and origin is None and (made := self._of_class(annotation)) is not None:
            return made
        return self._of_generic(origin or annotation, args)

    def _of_class(self, cls: type) -> Schema | None:
        if issubclass(cls, Enum):
            return self._defined(cls, lambda: _enum(_members(cls)))
        if is_model(cls):
            return self._of_model(cls)
        if is_dataclass(cls):
            return self._defined(cls, lambda: self._of_dataclass(cls))
        if typing.is_typeddict(cls):
            return self._defined(cls, lambda: self._of_typed_dict(cls))
        return None

    def _of_generic(self, origin: object, args: tuple[object, ...]) -> Schema:
        if origin in typed.LISTS:
            return _array(self.of(args[0]) if args else {})
        if origin in typed.SETS:
            return _array(self._of_hashable(args[0] if args else Any))
        if origin in typed.DICTS:
            values = self.of(args[1]) if args else {}
            return {"type": "object", "additionalProperties": values} if values else {"type": "object"}
        if origin is tuple:
            if not args or (len(args) == 2 and args[1] is Ellipsis):  # noqa: PLR2004
                return _array(self.of(args[0]) if args else {})
            prefix: list[JSON] = [self.of(one) for one in args]
            return {"type": "array", "prefixItems": prefix, "minItems": len(args), "maxItems": len(args)}
        if isinstance(origin, type) and is_dataclass(origin):
            return self.of(origin)
        return {}

    def _of_hashable(self, annotation: object) -> Schema:
        """Items of a set: no list or object where the annotation leaves it open."""
        made = self.of(annotation)
        return made or {"type": ["string", "number", "boolean", "null"]}

    def _of_dataclass(self, cls: type) -> Schema:
        hints = typed.hints_of(cls)
        properties: Schema = {}
        needed: list[JSON] = []
        out = self._mode == "serialization"
        for one in fields(cast("Any", cls)):
            if one.init or out:
                properties[one.name] = _with_default(self.of(hints.get(one.name, Any)), one.default)
                if out or (one.default is MISSING and one.default_factory is MISSING):
                    needed.append(one.name)
        return _object(properties, needed, closed=True)

    def _of_typed_dict(self, cls: type) -> Schema:
        hints = typed.hints_of(cls)
        needed: list[JSON] = sorted(getattr(cls, "__required_keys__", ()))
        return _object({name: self.of(hint) for name, hint in hints.items()}, needed, closed=False)

    def _of_model(self, cls: type) -> Schema:
        def make() -> Schema:
            name = self._names[cls]
            template = f"#/$defs/{name}.{{model}}"
            made = cast("_Model", cls).model_json_schema(ref_template=template, mode=self._mode)
            inner = made.pop("$defs", {})
            if isinstance(inner, dict):
                self._definitions |= {f"{name}.{key}": _tidy(one) for key, one in inner.items()}
            return cast("Schema", _tidy(made))

        return self._defined(cls, make)

    def _defined(self, cls: type, make: Callable[[], Schema]) -> Schema:
        if cls not in self._names:
            name, number = cls.__name__, 2
            while name in self._definitions:
                name, number = f"{cls.__name__}{number}", number + 1
            self._names[cls] = name
            self._definitions[name] = {}  # it may name itself
            self._definitions[name] = make()
        return {"$ref": f"#/$defs/{self._names[cls]}"}


def _object(properties: Schema, needed: list[JSON], *, closed: bool) -> Schema:
    made: Schema = {"type": "object", "properties": properties}
    if needed:
        made["required"] = needed
    return {**made, "additionalProperties": False} if closed else made


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items} if items else {"type": "array"}


def _any_of(choices: list[Schema]) -> Schema:
    kept: list[Schema] = []
    for one in choices:
        if not one:
            return {}
        if one not in kept and one != {"not": {}}:
            kept.append(one)
    if len(kept) <= 1:
        return kept[0] if kept else {"not": {}}
    if all(one.keys() == {"type"} for one in kept):
        return {"type": [name for one in kept for name in _names(one["type"])]}
    return {"anyOf": cast("JSON", kept)}


def _names(given: JSON) -> list[JSON]:
    return given if isinstance(given, list) else [given]


def _enum(values: Iterable[object]) -> Schema:
    """Null stands in no object of a manifest alone: tools that apply manifests drop such members."""
    kept = [cast("JSON", one) for one in values if one is None or type(one) in {str, int, float, bool, list}]
    return {"enum": kept} if kept else {"not": {}}


def _members(cls: type[Enum]) -> list[object]:
    """The JSON that stands for the members and is read as them."""
    found: list[object] = []
    for one in cls:
        try:
            data = _json(one.value)
            typed.read(data, FRESH, cls)
        except MilepostError:
            continue
        found.append(data)
    return found


def _json(value: object) -> JSON:
    made: JSON = json.loads(pack(value).text)
    return made


def _tidy(value: JSON) -> JSON:
    """A schema of pydantic's without titles, with no null that a manifest could lose, and no look-around."""
    if not isinstance(value, dict):
        return value
    made: Schema = {}
    for key, one in value.items():
        if key == "title" or (key == "default" and not isinstance(one, (str, int, float, bool))):
            continue
        if key == "const" and one is None:
            made["type"] = "null"
        elif key == "pattern" and isinstance(one, str) and _LOOK_AROUND in one:
            made[key] = _DECIMAL
        elif key in _BY_NAME and isinstance(one, Mapping):
            made[key] = {name: _tidy(inner) for name, inner in one.items()}
        elif key in _LISTS and isinstance(one, list):
            made[key] = [_tidy(inner) for inner in one]
        else:
            made[key] = _tidy(one) if key in _SINGLE else one
    return made
