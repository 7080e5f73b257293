"""Schemas read, bounded, and made checks of."""

import json
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import unquote

from milepost.wire.values import INT_MAX, JSON, member
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.schema import containers, scalars
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
        raise _wrong("$", "is nested too deeply") from error
    if size > MAX_BYTES:
        raise _wrong("$", f"has {size} bytes and {MAX_BYTES} is the most")
    _require_depth(value)
    return Schema(_Compiler(value, regex).root())


def _wrong(at: str, message: str) -> InvalidInputError:
    return InvalidInputError("invalid-schema", f"{at}: {message}", at)


def _require_depth(root: JSON) -> None:
    level = [root]
    for _ in range(MAX_DEPTH):
        level = [item for one in level for item in _inside(one)]
        if not level:
            return
    raise _wrong("$", f"is nested more than {MAX_DEPTH} levels deep")


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
            raise _wrong(at, f"$ref {pointer!r:.200} is elsewhere, and nothing is fetched: copy it into $defs")
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
            raise _wrong(at, f"$ref {pointer!r:.200}: only #/$defs/<name> and the like are supported")
        for part in pointer[2:].split("/"):
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdigit() and int(key[:9]) < len(found):
                found = found[int(key[:9])]
            else:
                raise _wrong(at, f"$ref {pointer!r:.200} names nothing in this schema")
        return found

    def _require_no_circles(self) -> None:
        """No schema applies to a value by way of itself, and no chain is long."""
        heights: dict[str, int] = {}

        def height(pointer: str, above: tuple[str, ...]) -> int:
            if pointer in above:
                raise _wrong(_place(pointer), f"$ref {pointer} leads to itself without looking at a part of the value")
            if len(above) > MAX_CHAIN:
                raise _wrong(_place(pointer), f"more than {MAX_CHAIN} references apply to one value, one by another")
            if pointer not in heights:
                below = self._depths.get(pointer, {}).items()
                heights[pointer] = max((cost + height(other, (*above, pointer)) for other, cost in below), default=1)
            return heights[pointer]

        for pointer in self._references:
            if height(pointer, ()) > MAX_CHAIN * 2:
                raise _wrong(_place(pointer), f"more than {MAX_CHAIN * 2} schemas apply to one value, one in another")

    def _schema(self, value: JSON, at: str, owner: str, depth: int) -> Check:
        """`owner`: the reference whose value this schema applies to ('' inside of it); `depth`: how far below it."""
        self._schemas += 1
        if self._schemas > MAX_SCHEMAS:
            raise _wrong(at, f"there are more than {MAX_SCHEMAS} schemas in it")
        if value is True:
            return lambda _value, _walk: None
        if value is False:
            return lambda _value, _walk: told("is not allowed here")
        if not isinstance(value, dict):
            raise _wrong(at, "a schema is an object, true or false")
        for keyword, instead in _UNSUPPORTED.items():
            if keyword in value:
                raise _wrong(member(at, keyword), f"{keyword} is not supported: {instead}")
        if value.get("$schema", DIALECT) not in {DIALECT, DIALECT + "#"}:
            raise _wrong(member(at, "$schema"), f"only {DIALECT} is supported")
        checks = [*_Keywords(self, value, at, owner, depth).checks()]
        return containers.all_of(checks) if checks else (lambda _value, _walk: None)

    def in_place(self, value: JSON, at: str, owner: str, depth: int) -> Check:
        """A schema for the same value."""
        return self._schema(value, at, owner, depth + 1)

    def inside(self, value: JSON, at: str) -> Check:
        """A schema for a part of the value."""
        return self._schema(value, at, "", 0)

    def refer(self, pointer: JSON, at: str, owner: str, depth: int) -> Check:
        if not isinstance(pointer, str):
            raise _wrong(at, "$ref is a text")
        made = self._reference(pointer, at)
        if owner:
            below = self._depths.setdefault(owner, {})
            below[pointer] = max(below.get(pointer, 0), depth + 1)
        return made

    def pattern(self, text: JSON, at: str) -> tuple[Matcher, int]:
        if not isinstance(text, str):
            raise _wrong(at, "a pattern is a text")
        weight = checked_weight(text, at)
        self._weight += weight
        if self._weight > MAX_WEIGHT:
            raise _wrong(at, "the patterns of this schema are too many or too big, all taken together")
        try:
            return self._regex(text), weight
        except ValueError as error:
            raise _wrong(at, f"the pattern {text!r:.80} can't be used: {error}") from error


def _place(pointer: str) -> str:
    path = "$"
    for part in pointer[1:].split("/")[1:]:
        path = member(path, part)
    return path


class _Keywords:
    """The checks of one schema object."""

    def __init__(self, compiler: _Compiler, schema: Mapping[str, JSON], at: str, owner: str, depth: int) -> None:
        self._compiler, self._schema, self._at = compiler, schema, at
        self._owner, self._depth = owner, depth

    def checks(self) -> list[Check]:
        schema = self._schema
        made: list[Check] = []
        if "$ref" in schema:
            made.append(self._compiler.refer(schema["$ref"], self._place("$ref"), self._owner, self._depth))
        if "type" in schema:
            made.append(scalars.of_type(self._types()))
        if "enum" in schema:
            made.append(scalars.one_of(self._list("enum")))
        if "const" in schema:
            made.append(scalars.one_of([schema["const"]]))
        made += [*self._texts(), *self._numbers(), *self._lists(), *self._objects(), *self._combined()]
        return made

    def _texts(self) -> list[Check]:
        made: list[Check] = []
        if self._has("minLength", "maxLength"):
            made.append(scalars.length(self._count("minLength") or 0, self._count("maxLength")))
        if "pattern" in self._schema:
            matcher, weight = self._compiler.pattern(self._schema["pattern"], self._place("pattern"))
            made.append(scalars.matching(str(self._schema["pattern"]), matcher, weight))
        if isinstance(name := self._schema.get("format"), str) and (check := scalars.of_format(name)):
            made.append(check)
        return made

    def _numbers(self) -> list[Check]:
        made = [
            scalars.bounded(keyword, self._number(keyword))
            for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
            if keyword in self._schema
        ]
        if "multipleOf" in self._schema:
            unit = self._number("multipleOf")
            if unit <= 0:
                raise _wrong(self._place("multipleOf"), "has to be above 0")
            made.append(scalars.multiple_of(unit))
        return made

    def _lists(self) -> list[Check]:
        made: list[Check] = []
        if self._has("minItems", "maxItems"):
            made.append(containers.count(list, "items", self._count("minItems") or 0, self._count("maxItems")))
        prefix = [self._inside(f"prefixItems[{i}]", one) for i, one in enumerate(self._list("prefixItems", empty=True))]
        rest = self._inside("items", self._schema["items"]) if "items" in self._schema else None
        if prefix or rest is not None:
            made.append(containers.items(prefix, rest))
        if "contains" in self._schema:
            least = self._count("minContains")
            inner = self._inside("contains", self._schema["contains"])
            made.append(containers.contains(inner, 1 if least is None else least, self._count("maxContains")))
        if self._flag("uniqueItems"):
            made.append(containers.unique)
        return made

    def _objects(self) -> list[Check]:
        schema = self._schema
        made: list[Check] = []
        if self._has("minProperties", "maxProperties"):
            low, high = self._count("minProperties") or 0, self._count("maxProperties")
            made.append(containers.count(dict, "members", low, high))
        if "required" in schema:
            made.append(containers.required(self._names("required", schema["required"])))
        if self._has("properties", "patternProperties", "additionalProperties"):
            made.append(self._members())
        if "propertyNames" in schema:
            made.append(containers.names(self._inside("propertyNames", schema["propertyNames"])))
        for name, needs in self._object("dependentRequired").items():
            made.append(containers.dependent(name, containers.required(self._names("dependentRequired", needs))))
        for name, one in self._object("dependentSchemas").items():
            made.append(containers.dependent(name, self._same("dependentSchemas", one)))
        return made

    def _members(self) -> Check:
        known = {name: self._inside(f"properties.{name}", one) for name, one in self._object("properties").items()}
        patterns = []
        for pattern, one in self._object("patternProperties").items():
            matcher, weight = self._compiler.pattern(pattern, self._place("patternProperties"))
            patterns.append((matcher, weight, self._inside("patternProperties", one)))
        others = self._schema.get("additionalProperties", True)
        rest = None if others is True else self._inside("additionalProperties", others)
        named = ", ".join(list(known)[:10]) + (", …" if len(known) > 10 else "")  # noqa: PLR2004  as many as read well
        closed = "" if others is not False else f"is unknown; known: {named or 'none'}"
        return containers.members(known, patterns, rest, closed)

    def _combined(self) -> list[Check]:
        made: list[Check] = [self._same("allOf", one) for one in self._list("allOf", empty=True)]
        for keyword in ("anyOf", "oneOf"):
            if keyword in self._schema:
                choices = [self._same(keyword, one) for one in self._list(keyword)]
                made.append(containers.any_of(choices, only_one=keyword == "oneOf"))
        if "not" in self._schema:
            made.append(containers.none_of(self._same("not", self._schema["not"])))
        if "if" in self._schema:
            then, otherwise = (
                self._same(keyword, self._schema[keyword]) if keyword in self._schema else None
                for keyword in ("then", "else")
            )
            made.append(containers.conditional(self._same("if", self._schema["if"]), then, otherwise))
        for keyword in ("$defs", "definitions"):
            self._object(keyword)
        return made

    def _same(self, keyword: str, value: JSON) -> Check:
        return self._compiler.in_place(value, self._place(keyword), self._owner, self._depth)

    def _inside(self, keyword: str, value: JSON) -> Check:
        return self._compiler.inside(value, f"{self._at}.{keyword}")

    def _place(self, keyword: str) -> str:
        return member(self._at, keyword)

    def _has(self, *keywords: str) -> bool:
        return any(keyword in self._schema for keyword in keywords)

    def _types(self) -> list[str]:
        given = self._schema["type"]
        names = given if isinstance(given, list) else [given]
        found = [name for name in names if isinstance(name, str) and name in scalars.TYPES]
        if not names or len(found) != len(names):
            raise _wrong(self._place("type"), f"is one of {', '.join(scalars.TYPES)}, or a list of them")
        return found

    def _number(self, keyword: str) -> float:
        value = self._schema[keyword]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _wrong(self._place(keyword), "has to be a number")
        return value

    def _count(self, keyword: str) -> int | None:
        if keyword not in self._schema:
            return None
        value = self._number(keyword)
        if not 0 <= value <= INT_MAX or int(value) != value:
            raise _wrong(self._place(keyword), "has to be a whole number, 0 or more")
        return int(value)

    def _flag(self, keyword: str) -> bool:
        value = self._schema.get(keyword, False)
        if not isinstance(value, bool):
            raise _wrong(self._place(keyword), "has to be true or false")
        return value

    def _list(self, keyword: str, *, empty: bool = False) -> list[JSON]:
        value = self._schema.get(keyword, [])
        if not isinstance(value, list) or not (value or empty):
            raise _wrong(self._place(keyword), "has to be a list" if empty else "has to be a list that is not empty")
        return value

    def _names(self, keyword: str, value: JSON) -> list[str]:
        names = [one for one in value if isinstance(one, str)] if isinstance(value, list) else None
        if names is None or not isinstance(value, list) or len(names) != len(value):
            raise _wrong(self._place(keyword), "has to be a list of names")
        return names

    def _object(self, keyword: str) -> dict[str, JSON]:
        value = self._schema.get(keyword, {})
        if not isinstance(value, dict):
            raise _wrong(self._place(keyword), "has to be an object")
        return value
