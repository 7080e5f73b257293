"""How a run's input becomes the arguments of a task."""

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from inspect import BoundArguments, Parameter, signature
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from milepost.errors import FatalError, ValueMismatchError
from milepost.values import pack_within, unpack
from milepost.wire.values import JSON

CONTEXTS: Final = frozenset({"Context", "SyncContext"})
NO_OBJECTS: Final = frozenset(
    {"str", "int", "float", "bool", "list", "tuple", "set", "frozenset", "None", "NoneType"}
    | {"datetime", "date", "time", "timedelta", "UUID", "Decimal", "bytes", "Sequence", "Iterable", "Collection"}
)
"""Names of annotations of parameters that can't mean to take an object."""
PLAIN: Final = frozenset({str, int, float, bool, list, dict})
"""Annotations whose values are JSON's own, as they are."""


class Binding:
    """The parameters of a task's function, less its context. `name`: what errors call it."""

    def __init__(self, fn: Callable[..., object], name: str) -> None:
        self.fn = fn
        self.name = name
        self.parameters = list(signature(fn).parameters.values())
        self._takes_context = bool(self.parameters) and _is_context(self.parameters[0])
        self.context_name = self.parameters.pop(0).name if self._takes_context else ""

    def bind(self, context: object, data: JSON) -> Callable[[], object]:
        """Make the call for a run's input. As TaskFunction.bind.

        One parameter without a default gets the input as it is, unless its annotation says that it takes no object.
        Else the members of the input are passed by name, and null or an empty object passes nothing; an input that is
        no object goes to the first parameter.

        Raises:
            FatalError: the input does not fit, and no other attempt would change that.
        """
        args: list[object] = [context] if self._takes_context else []
        kwargs: dict[str, object] = {}
        if isinstance(data, dict) and not self.takes_objects():
            kwargs.update(data)
        elif data is not None or (len(self.parameters) == 1 and _is_required(self.parameters[0])):
            args.append(data)
        try:
            bound = signature(self.fn).bind(*args, **kwargs)
        except TypeError as error:
            raise FatalError(f"the input does not fit {self.name}{signature(self.fn)}: {error}") from None
        self._read(bound, by_name=bool(kwargs))
        fn = self.fn
        return lambda: fn(*bound.args, **bound.kwargs)

    def result(self, value: object, limit: int, advice: str = "") -> str:
        """The JSON text of a result of at most `limit` bytes. `advice`: what to do about a larger one.

        It is held to the annotation, as a step's is: here, where the author sees the error in the task's own log, and
        where it costs the settling of others nothing.

        Raises:
            FatalError: it does not fit the annotation.
            NotRecordableError, RecordTooLargeError: as `pack_within`.
        """
        packed = pack_within(value, limit, "the task's result", advice)
        annotation = self.hints.get("return", Any)
        if annotation is Any or (type(value) is annotation and annotation in PLAIN):
            return packed.text
        try:
            unpack(packed, annotation)
        except ValueMismatchError as error:
            said = str(error).replace("the record", "the result")
            raise FatalError(f"the result does not fit what {self.name}{signature(self.fn)} says: {said}") from error
        return packed.text

    @cached_property
    def hints(self) -> dict[str, object]:
        """Annotations by name, less those that can't be worked out, such as names that only type checkers import."""
        try:
            return get_type_hints(self.fn)
        except (NameError, TypeError, AttributeError):
            return self._hints_one_by_one()

    def _hints_one_by_one(self) -> dict[str, object]:
        names = getattr(self.fn, "__globals__", {})
        found: dict[str, object] = {}
        for name, annotation in getattr(self.fn, "__annotations__", {}).items():
            with suppress(NameError, TypeError, AttributeError):
                found |= get_type_hints(SimpleNamespace(__annotations__={name: annotation}), names)
        return found

    def _read(self, bound: BoundArguments, *, by_name: bool) -> None:
        """Make each argument what its annotation says."""
        kinds = {one.name: one.kind for one in self.parameters}
        for name, value in bound.arguments.items():
            if name not in kinds or name not in self.hints:
                continue
            annotation = self.hints[name]
            if kinds[name] is Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: self._value(f"$.{key}", one, annotation) for key, one in value.items()}
            elif kinds[name] is Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(self._value("$", one, annotation) for one in value)
            else:
                bound.arguments[name] = self._value(f"$.{name}" if by_name else "$", value, annotation)

    def _value(self, path: str, data: JSON, annotation: object) -> object:
        if annotation is Any or (type(data) is annotation and annotation in PLAIN):
            return data
        from milepost import typed  # noqa: PLC0415  (tasks of plain JSON never pay for it)
        from milepost.tags import FRESH  # noqa: PLC0415

        try:
            return typed.read(data, FRESH, annotation)
        except ValueMismatchError as error:
            said = str(error).replace("$", path, 1).replace("the record", "the input")
            raise FatalError(f"the input does not fit {self.name}{signature(self.fn)}: {said}") from error

    def takes_objects(self) -> bool:
        """Whether an object that is the input is one argument, rather than the arguments by name."""
        if len(self.parameters) != 1 or not _is_required(self.parameters[0]):
            return False
        only = self.parameters[0]
        return _may_be_object(self.hints.get(only.name, only.annotation))


def _is_context(parameter: Parameter) -> bool:
    annotation = parameter.annotation
    name = annotation.rpartition(".")[2] if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return parameter.name == "ctx" or name in CONTEXTS


def _is_required(parameter: Parameter) -> bool:
    by_position = parameter.kind in {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
    return by_position and parameter.default is Parameter.empty


def _may_be_object(annotation: object) -> bool:
    if annotation is Parameter.empty:
        return True
    if isinstance(annotation, str):  # it could not be resolved
        return not all(one.strip() in NO_OBJECTS for one in _outside_brackets(annotation).split("|"))
    origin = get_origin(annotation)
    if origin is Union or isinstance(annotation, UnionType):
        return any(_may_be_object(one) for one in get_args(annotation))
    if origin is Annotated:
        return _may_be_object(get_args(annotation)[0])
    if origin is Literal:
        return False
    kind = annotation if origin is None else origin
    return not (getattr(kind, "__name__", str(kind)) in NO_OBJECTS or hasattr(kind, "__members__"))


def _outside_brackets(annotation: str) -> str:
    """`list[int | str] | None` is `list | None`."""
    depth, kept = 0, ""
    for letter in annotation:
        depth += (letter == "[") - (letter == "]")
        kept += letter if depth == 0 and letter != "]" else ""
    return kept
