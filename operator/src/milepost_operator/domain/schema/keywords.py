"""The keywords of one schema object, as checks."""

from collections.abc import Mapping
from typing import Protocol

from milepost.wire.values import INT_MAX, JSON, member
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.schema import containers, scalars
from milepost_operator.domain.schema.walk import Check, Matcher


def wrong(at: str, message: str) -> InvalidInputError:
    """What can't be taken of a schema, at a JSON path."""
    return InvalidInputError("invalid-schema", f"{at}: {message}", at)


class Compiler(Protocol):
    """Makes checks of the schemas within. `owner`: the reference whose value they apply to; `depth`: how far below."""

    def in_place(self, value: JSON, at: str, owner: str, depth: int) -> Check:
        """Of a schema for the same value."""

    def inside(self, value: JSON, at: str) -> Check:
        """Of a schema for a part of the value."""

    def refer(self, pointer: JSON, at: str, owner: str, depth: int) -> Check:
        """Of a `$ref`."""

    def pattern(self, text: JSON, at: str) -> tuple[Matcher, int]:
        """A pattern's matcher and weight."""


class Keywords:
    """The checks of one schema object."""

    def __init__(self, compiler: Compiler, schema: Mapping[str, JSON], at: str, owner: str, depth: int) -> None:
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
                raise wrong(self._place("multipleOf"), "has to be above 0")
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
            raise wrong(self._place("type"), f"is one of {', '.join(scalars.TYPES)}, or a list of them")
        return found

    def _number(self, keyword: str) -> float:
        value = self._schema[keyword]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong(self._place(keyword), "has to be a number")
        return value

    def _count(self, keyword: str) -> int | None:
        if keyword not in self._schema:
            return None
        value = self._number(keyword)
        if not 0 <= value <= INT_MAX or int(value) != value:
            raise wrong(self._place(keyword), "has to be a whole number, 0 or more")
        return int(value)

    def _flag(self, keyword: str) -> bool:
        value = self._schema.get(keyword, False)
        if not isinstance(value, bool):
            raise wrong(self._place(keyword), "has to be true or false")
        return value

    def _list(self, keyword: str, *, empty: bool = False) -> list[JSON]:
        value = self._schema.get(keyword, [])
        if not isinstance(value, list) or not (value or empty):
            raise wrong(self._place(keyword), "has to be a list" if empty else "has to be a list that is not empty")
        return value

    def _names(self, keyword: str, value: JSON) -> list[str]:
        names = [one for one in value if isinstance(one, str)] if isinstance(value, list) else None
        if names is None or not isinstance(value, list) or len(names) != len(value):
            raise wrong(self._place(keyword), "has to be a list of names")
        return names

    def _object(self, keyword: str) -> dict[str, JSON]:
        value = self._schema.get(keyword, {})
        if not isinstance(value, dict):
            raise wrong(self._place(keyword), "has to be an object")
        return value
