"""Schemas read, bounded, and made checks of."""

import json
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from milepost.wire.values import JSON, member
from milepost_operator.domain.schema import containers
from milepost_operator.domain.schema.keywords import Keywords, wrong
from milepost_operator.domain.schema.patterns import MAX_WEIGHT, checked_weight
from milepost_operator.domain.schema.walk import Check, Matcher, Misfit, TooMuchWorkError, Walk, told

MAX_BYTES: Final = 65_536
MAX_DEPTH: Final = 48
MAX_SCHEMAS: Final = 5_000
MAX_CHAIN: Final = 24
"""Schemas that apply to one and the same value through `$ref`, `anyOf` and the like, one below another."""
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_UNSUPPORTED: Final = {
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
    "$anchor": "refer to #/$defs/<name>",
    "$dynamicAnchor": "refer to #/$defs/<name>",
    "$id": "leave it out: references are within the schema",
    "unevaluatedProperties": "use additionalProperties",
    "unevaluatedItems": "use items",
    "dependencies": "use dependentRequired or dependentSchemas",
    "additionalItems": "use prefixItems and items",
}

Compile = Callable[[str], Matcher]
"""Makes a matcher of a pattern; ValueError says why it can't."""


class Schema:
    """A schema that values can be checked against. `text`: its JSON text."""

    def __init__(self, check: Check) -> None:
        self._check = check

    def misfit(self, value: JSON, size: int) -> Misfit | None:
        """The first thing in `value` that does not fit. `size`: bytes of its JSON text, which bound the work."""
        try:
            return self._check(value, Walk(size))
        except TooMuchWorkError as error:
            return told(f"can't be accepted: {error}; make the input smaller, or the schema simpler")
        except RecursionError:
            return told("can't be accepted: it is nested too deeply for the schema")


def compiled(value: JSON, regex: Compile) -> Schema:
    """Read a schema. Raises InvalidInputError (`invalid-schema`) with the place of what can't be taken."""
    try:
        size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace"))
    except RecursionError as error:
        raise wrong("$", "is nested too deeply") from error
    if size > MAX_BYTES:
        raise wrong("$", f"has {size} bytes and {MAX_BYTES} is the most")
    _require_depth(value)
    return Schema(_Compiler(value, regex).root())


def _require_depth(root: JSON) -> None:
    level = [root]
    for _ in range(MAX_DEPTH):
        level = [item for one in level for item in _inside(one)]
        if not level:
            return
    raise wrong("$", f"is nested more than {MAX_DEPTH} levels deep")


def _inside(value: JSON) -> list[JSON]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


class _Reference:
    """What a `$ref` says of a value, worked out once for each value."""

    def __init__(self) -> None:
        self.check: Check = lambda _value, _walk: None

    def __call__(self, value: JSON, walk: Walk) -> Misfit | None:
        key = (id(self), id(value))
        if key in walk.known:
            walk.take(1)
            return walk.known[key]
        found = self.check(value, walk)
        if isinstance(value, (dict, list)):  # these live as long as the walk, so that their ids name them
            walk.known[key] = found
        return found


class _Compiler:
    def __init__(self, document: JSON, regex: Compile) -> None:
        self._document = document
        self._regex = regex
        self._references: dict[str, _Reference] = {}
        self._later: list[tuple[str, _Reference]] = []
        self._schemas = 0
        self._weight = 0
        self._depths: dict[str, dict[str, int]] = {}
        """Of each reference, those that apply to the same value below it, and how far below."""

    def root(self) -> Check:
        made = self._reference("#", "$")
        while self._later:
            pointer, reference = self._later.pop()
            reference.check = self._schema(self._resolved(pointer), _place(pointer), pointer, 0)
        self._require_no_circles()
        return made

    def _reference(self, pointer: str, at: str) -> _Reference:
        if not pointer.startswith("#"):
            raise wrong(at, f"$ref {pointer!r:.200} is elsewhere, and nothing is fetched: copy it into $defs")
        if pointer not in self._references:
            self._resolved(pointer, at)
            self._references[pointer] = made = _Reference()
            self._later.append((pointer, made))
        return self._references[pointer]

    def _resolved(self, pointer: str, at: str = "$") -> JSON:
        found = self._document
        if pointer in {"#", "#/"}:
            return found
        if not pointer.startswith("#/"):
            raise wrong(at, f"$ref {pointer!r:.200}: only #/$defs/<name> and the like are supported")
        for part in pointer[2:].split("/"):
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdigit() and int(key[:9]) < len(found):
                found = found[int(key[:9])]
            else:
                raise wrong(at, f"$ref {pointer!r:.200} names nothing in this schema")
        return found

    def _require_no_circles(self) -> None:
        """No schema applies to a value by way of itself, and no chain is long."""
        heights: dict[str, int] = {}

        def height(pointer: str, above: tuple[str, ...]) -> int:
            if pointer in above:
                raise wrong(_place(pointer), f"$ref {pointer} leads to itself without looking at a part of the value")
            if len(above) > MAX_CHAIN:
                raise wrong(_place(pointer), f"more than {MAX_CHAIN} references apply to one value, one by another")
            if pointer not in heights:
                below = self._depths.get(pointer, {}).items()
                heights[pointer] = max((cost + height(other, (*above, pointer)) for other, cost in below), default=1)
            return heights[pointer]

        for pointer in self._references:
            if height(pointer, ()) > MAX_CHAIN * 2:
                raise wrong(_place(pointer), f"more than {MAX_CHAIN * 2} schemas apply to one value, one in another")

    def _schema(self, value: JSON, at: str, owner: str, depth: int) -> Check:
        """`owner`: the reference whose value this schema applies to ('' inside of it); `depth`: how far below it."""
        self._schemas += 1
        if self._schemas > MAX_SCHEMAS:
            raise wrong(at, f"there are more than {MAX_SCHEMAS} schemas in it")
        if value is True:
            return lambda _value, _walk: None
        if value is False:
            return lambda _value, _walk: told("is not allowed here")
        if not isinstance(value, dict):
            raise wrong(at, "a schema is an object, true or false")
        for keyword, instead in _UNSUPPORTED.items():
            if keyword in value:
                raise wrong(member(at, keyword), f"{keyword} is not supported: {instead}")
        if value.get("$schema", DIALECT) not in {DIALECT, DIALECT + "#"}:
            raise wrong(member(at, "$schema"), f"only {DIALECT} is supported")
        checks = [*Keywords(self, value, at, owner, depth).checks()]
        return containers.all_of(checks) if checks else (lambda _value, _walk: None)

    def in_place(self, value: JSON, at: str, owner: str, depth: int) -> Check:
        """A schema for the same value."""
        return self._schema(value, at, owner, depth + 1)

    def inside(self, value: JSON, at: str) -> Check:
        """A schema for a part of the value."""
        return self._schema(value, at, "", 0)

    def refer(self, pointer: JSON, at: str, owner: str, depth: int) -> Check:
        if not isinstance(pointer, str):
            raise wrong(at, "$ref is a text")
        made = self._reference(pointer, at)
        if owner:
            below = self._depths.setdefault(owner, {})
            below[pointer] = max(below.get(pointer, 0), depth + 1)
        return made

    def pattern(self, text: JSON, at: str) -> tuple[Matcher, int]:
        if not isinstance(text, str):
            raise wrong(at, "a pattern is a text")
        weight = checked_weight(text, at)
        self._weight += weight
        if self._weight > MAX_WEIGHT:
            raise wrong(at, "the patterns of this schema are too many or too big, all taken together")
        try:
            return self._regex(text), weight
        except ValueError as error:
            raise wrong(at, f"the pattern {text!r:.80} can't be used: {error}") from error


def _place(pointer: str) -> str:
    path = "$"
    for part in pointer[1:].split("/")[1:]:
        path = member(path, part)
    return path
