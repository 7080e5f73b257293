"""What is said of code that changed under a run: what was recorded, what was found in its place, and what to do."""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote

from milepost.errors import ChangedCodeError

ORDER: Final = "read in a step what decides on the steps and their order, or give them a key="
ARGUMENTS: Final = "make them of the input and of recorded values, or annotate the parameter Annotated[..., Volatile]"
VALUE: Final = "let the annotation take what was recorded, too"


_PLACED: Final = re.compile(r"(\d+)(?:@([^(]*))?\((.*)\)")
_KEYED: Final = re.compile(r"=([^(]*)\((.*)\)")


class Print(NamedTuple):
    """A fingerprint, read. `position` 0: of no place in a branch. `by_position`, `by_keyword`: checksums."""

    position: int
    branch: str
    name: str
    by_position: tuple[str, ...]
    by_keyword: dict[str, str]


def parse(fingerprint: str) -> Print | None:
    """Read it; None for one of a kind that a later version writes."""
    if found := _PLACED.fullmatch(fingerprint):
        return Print(int(found.group(1)), unquote(found.group(2) or ""), "", *_told(found.group(3)))
    if found := _KEYED.fullmatch(fingerprint):
        return Print(0, "", unquote(found.group(1)), *_told(found.group(2)))
    return None


def _told(arguments: str) -> tuple[tuple[str, ...], dict[str, str]]:
    first, _, second = arguments.partition(";")
    named = (one.partition("=") for one in second.split(",") if one)
    return tuple(first.split(",")) if first else (), {unquote(name): told for name, _, told in named}


def place(key: str, other: str, prefix: str, position: int) -> ChangedCodeError:
    """Make the error of a step that is called where another one was recorded."""
    branch = f"branch {prefix.rstrip('/')!r}" if prefix else "the task"
    where = f"as call {position} of {branch}"
    return ChangedCodeError(key, "order", f"step {other!r} {where}", f"step {key!r} there", ORDER)


def compare(key: str, recorded: str, found: str) -> ChangedCodeError | None:
    """Make the error of a call that is not as it was recorded; None where the two can't be compared."""
    old, new = parse(recorded), parse(found)
    if old is None or new is None:
        return None
    if old.name != new.name:
        return ChangedCodeError(key, "name", _whose(old), _whose(new), ORDER)
    if old.position and new.position:
        if old.position != new.position:
            return ChangedCodeError(key, "order", f"as call {old.position}", f"as call {new.position}", ORDER)
        if old.branch != new.branch:
            return branch("", old.branch, new.branch, key)
    told, differs = (old.by_position, old.by_keyword), (new.by_position, new.by_keyword)
    return None if told == differs else _arguments(key, old, new)


def branch(prefix: str, recorded: str, found: str, key: str = "") -> ChangedCodeError:
    """Make the error of a branch that runs another function than the one that was recorded."""
    what = f"branch {prefix.rstrip('/')!r} as" if prefix else "its branch as"
    return ChangedCodeError(
        key, "order", f"{what} {recorded or 'no function of the task'}", found or "no function of the task", ORDER
    )


def value(key: str, error: Exception) -> ChangedCodeError:
    """Make the error of a recorded value that does not fit its annotation."""
    return ChangedCodeError(
        key, "value", "a value of another type", f"an annotation that it does not fit: {error}", VALUE
    )


def _whose(one: Print) -> str:
    return f"by step {one.name!r}" if one.name else "by a step without a key of its own"


def _arguments(key: str, old: Print, new: Print) -> ChangedCodeError:
    if len(old.by_position) != len(new.by_position) or old.by_keyword.keys() != new.by_keyword.keys():
        return ChangedCodeError(key, "arguments", _count(old), _count(new), ARGUMENTS)
    pairs = {f"argument {n + 1}": pair for n, pair in enumerate(zip(old.by_position, new.by_position, strict=True))}
    pairs |= {f"argument {name!r}": (was, new.by_keyword[name]) for name, was in old.by_keyword.items()}
    differing = {where: pair for where, pair in pairs.items() if pair[0] != pair[1]}
    was = ", ".join(f"{where} with checksum {pair[0]}" for where, pair in differing.items())
    now = ", ".join(pair[1] for pair in differing.values())
    return ChangedCodeError(key, "arguments", was, now, ARGUMENTS)


def _count(one: Print) -> str:
    named = f" and {', '.join(one.by_keyword)} by name" if one.by_keyword else ""
    return f"{len(one.by_position)} arguments by position{named}"
