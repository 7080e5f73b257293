"""Checks of keywords that look into lists and objects, and of those that combine schemas."""

from collections.abc import Mapping, Sequence

from milepost.wire.values import JSON
from milepost_operator.domain.schema.walk import Check, Matcher, Misfit, Walk, canonical, shown, told

Patterns = Sequence[tuple[Matcher, int, Check]]


def all_of(checks: Sequence[Check]) -> Check:
    """Every check, in order."""
    if len(checks) == 1:
        return checks[0]

    def check(value: JSON, walk: Walk) -> Misfit | None:
        walk.take(1)
        for one in checks:
            misfit = one(value, walk)
            if misfit is not None:
                return misfit
        return None

    return check


def any_of(checks: Sequence[Check], *, only_one: bool = False) -> Check:
    """One of the checks at least, or exactly one; tells of the one that came furthest."""

    def check(value: JSON, walk: Walk) -> Misfit | None:
        nearest: Misfit | None = None
        fits = 0
        for one in checks:
            walk.take(1)
            misfit = one(value, walk)
            if misfit is None:
                if not only_one:
                    return None
                fits += 1
            elif nearest is None or len(misfit.way) > len(nearest.way):
                nearest = misfit
        if fits == 1:
            return None
        if fits or nearest is None:
            return told(f"fits {fits} of the {len(checks)} alternatives and has to fit exactly one")
        if len(checks) == 1:
            return nearest
        return Misfit(nearest.way, f"{nearest.message} (the nearest of {len(checks)} alternatives)")

    return check


def none_of(inner: Check) -> Check:
    def check(value: JSON, walk: Walk) -> Misfit | None:
        walk.take(1)
        return told(f"is {shown(value)}, which the schema excludes") if inner(value, walk) is None else None

    return check


def conditional(condition: Check, then: Check | None, otherwise: Check | None) -> Check:
    def check(value: JSON, walk: Walk) -> Misfit | None:
        walk.take(1)
        follows = then if condition(value, walk) is None else otherwise
        return None if follows is None else follows(value, walk)

    return check


def items(prefix: Sequence[Check], rest: Check | None) -> Check:
    def check(value: JSON, walk: Walk) -> Misfit | None:
        if not isinstance(value, list):
            return None
        walk.take(len(value))
        for index, item in enumerate(value):
            one = prefix[index] if index < len(prefix) else rest
            if one is None:
                return None
            misfit = one(item, walk)
            if misfit is not None:
                return misfit.under(index)
        return None

    return check


def contains(inner: Check, least: int, most: int | None) -> Check:
    def check(value: JSON, walk: Walk) -> Misfit | None:
        if not isinstance(value, list):
            return None
        walk.take(len(value))
        found = sum(inner(item, walk) is None for item in value)
        if found >= least and (most is None or found <= most):
            return None
        wanted = f"at least {least}" if found < least else f"at most {most}"
        return told(f"contains {found} such items and has to contain {wanted}")

    return check


def unique(value: JSON, walk: Walk) -> Misfit | None:
    """Every item once."""
    if not isinstance(value, list):
        return None
    seen: set[object] = set()
    for index, item in enumerate(value):
        key = canonical(item, walk)
        if key in seen:
            return Misfit((index,), f"is {shown(item)} for the second time: the items have to differ")
        seen.add(key)
    return None


def count(kind: type, what: str, least: int, most: int | None) -> Check:
    """So many items or members."""

    def check(value: JSON, _walk: Walk) -> Misfit | None:
        if not isinstance(value, kind):
            return None
        size = len(value)  # type: ignore[arg-type]  # a list or a dict, as `kind` says
        if size >= least and (most is None or size <= most):
            return None
        return told(f"has {size} {what} and has to have {f'at least {least}' if size < least else f'at most {most}'}")

    return check


def required(names: Sequence[str]) -> Check:
    def check(value: JSON, _walk: Walk) -> Misfit | None:
        if isinstance(value, dict):
            for name in names:
                if name not in value:
                    return told(f"has no {name!r}, which it needs")
        return None

    return check


def members(known: Mapping[str, Check], patterns: Patterns, others: Check | None, closed: str) -> Check:
    """Each member by its name, by the patterns that its name matches, else by `others`. `closed`: what to say when
    those are refused altogether.
    """

    def check(value: JSON, walk: Walk) -> Misfit | None:
        if not isinstance(value, dict):
            return None
        walk.take(len(value))
        for name, item in value.items():
            one = known.get(name)
            misfit = None if one is None else one(item, walk)
            matched = one is not None
            for matcher, weight, inner in patterns:
                walk.match(weight, name)
                if misfit is None and matcher(name):
                    matched = True
                    misfit = inner(item, walk)
            if not matched and others is not None:
                misfit = others(item, walk)
            if misfit is not None:
                closing = not matched and closed
                return Misfit((name,), closed) if closing else misfit.under(name)
        return None

    return check


def names(inner: Check) -> Check:
    def check(value: JSON, walk: Walk) -> Misfit | None:
        if isinstance(value, dict):
            walk.take(len(value))
            for name in value:
                misfit = inner(name, walk)
                if misfit is not None:
                    return told(f"has the name {shown(name)}, which {misfit.message}")
        return None

    return check


def dependent(name: str, inner: Check) -> Check:
    """Where the object has this member, `inner` holds for it."""

    def check(value: JSON, walk: Walk) -> Misfit | None:
        if not isinstance(value, dict) or name not in value:
            return None
        walk.take(1)
        return inner(value, walk)

    return check
