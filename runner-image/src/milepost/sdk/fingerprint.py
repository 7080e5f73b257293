"""What a record says of the call that made it, so that a later attempt sees whether its code still makes the same call.

`3(5c8f1a22,?;top=9f03aa)`: the third step of its branch, its positional arguments, then those given by keyword in the
order of their names. `1@worker(…)`: the branch runs `worker`; its first step says so. `=charge(…)`: a step with a key
of its own, which does not hold its name. An argument is a CRC-32 of its JSON, or `?`: it can't be encoded (a client, a
logger), or it is `Volatile`. 32 bits tell two values of one place apart, and a record stays small.
"""

import json
import sys
import typing
from binascii import crc32
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import quote

UNTOLD: Final = "?"
MAX_TOLD: Final = 12
"""Arguments with a checksum of their own; the rest share one."""
MAX_NAME: Final = 60
_ENCODE: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_TEXT: Final = 1
"""What the checksum of a text begins with, so that '1' is not 1."""


class Volatile:
    """Marks a parameter whose value may differ from attempt to attempt: `token: Annotated[str, Volatile]`."""


def placed(position: int, branch: str, arguments: str) -> str:
    """Make the fingerprint of the step at a position (from 1) of its branch; `branch` only with its first step."""
    return f"{position}@{branch}({arguments})" if branch else f"{position}({arguments})"


def keyed(name: str, arguments: str) -> str:
    """Make the fingerprint of a step with a key of its own."""
    return f"={shortened(name)}({arguments})"


@lru_cache(maxsize=512)
def shortened(name: str) -> str:
    """Give a name as a header can hold it."""
    return quote(name[:MAX_NAME], safe="<>[]:/", errors="replace")


@lru_cache(maxsize=512)
def _quoted(name: str) -> str:
    return name if name.isascii() and name.isidentifier() else shortened(name)


def place(fingerprint: str) -> int:
    """Give the position in its branch: 0 when it has none, or is of a kind that a later version writes."""
    digits = fingerprint.partition("(")[0].partition("@")[0]
    return int(digits) if digits.isdecimal() and fingerprint.endswith(")") else 0


def branch(fingerprint: str) -> str:
    """Give the function of the branch that it says it begins, as it is written; '' where it says none."""
    return fingerprint.partition("(")[0].partition("@")[2]


def of_arguments(fn: object, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
    """Give the checksums of a call's arguments. Never fails: what can't be encoded is `?`."""
    if not args and not kwargs:
        return ""
    skipped = volatile(fn) if getattr(fn, "__annotations__", None) else frozenset()
    told = [UNTOLD if index in skipped else checksum(value) for index, value in enumerate(args)]
    text = ",".join(told if len(told) <= MAX_TOLD else _folded(told))
    if not kwargs:
        return text
    named = [f"{_quoted(name)}={UNTOLD if name in skipped else checksum(kwargs[name])}" for name in sorted(kwargs)]
    return f"{text};{','.join(named if len(named) <= MAX_TOLD else _folded(named))}"


def _folded(told: list[str]) -> list[str]:
    rest = ",".join(told[MAX_TOLD - 1 :])
    return [*told[: MAX_TOLD - 1], f"...={crc32(rest.encode()):x}"]


def checksum(value: object) -> str:
    """Give the checksum of a value as text, `?` for one that JSON and our type tags can't tell."""
    try:
        if isinstance(value, str):
            return f"{crc32(str.encode(value, errors='surrogatepass'), _TEXT):x}"
        return f"{crc32(_ENCODE(value).encode()):x}"
    except TypeError:
        return _tagged(value)
    except Exception:  # noqa: BLE001  (circular, too deep, or an object of the user that fails when it is looked at)
        return UNTOLD


def _tagged(value: object) -> str:
    from milepost.tagging import dump  # noqa: PLC0415  (plain JSON never pays for it)

    try:
        return f"{crc32(_ENCODE(dump(value, _anything)[0]).encode()):x}"
    except Exception:  # noqa: BLE001  (not of our types: a client, a logger, a function)
        return UNTOLD


def _anything(_value: object) -> None:
    """Leaves are the encoder's to judge."""


@lru_cache(maxsize=512)
def _volatile_of(fn: Callable[..., object]) -> frozenset[int | str]:
    if not any("Volatile" in str(one) for one in fn.__annotations__.values()):
        return frozenset()
    try:
        hints = typing.get_type_hints(fn, include_extras=True)
    except (NameError, TypeError, AttributeError):
        hints = dict(fn.__annotations__)  # names that only type checkers see
    marked = {name for name, hint in hints.items() if _is_marked(hint)}
    code = getattr(fn, "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code is not None else ()
    names = names[1:] if getattr(fn, "__self__", None) is not None else names
    return frozenset(marked) | {index for index, name in enumerate(names) if name in marked}


def volatile(fn: object) -> frozenset[int | str]:
    """Give the places and names of a function's parameters that are `Volatile`."""
    try:
        return _volatile_of(fn)
    except (TypeError, AttributeError):  # a callable that can't be hashed, or whose annotations are none
        return frozenset()


def _is_marked(hint: object) -> bool:
    if isinstance(hint, str):
        return "Volatile" in hint and "Annotated" in hint
    if typing.get_origin(hint) is typing.Annotated:
        return any(one is Volatile or isinstance(one, Volatile) for one in typing.get_args(hint)[1:])
    return False


def function_of(coro: object) -> str:
    """Give the name of the function that a task runs; '' for Milepost's own, which a later version may rename."""
    code = getattr(coro, "cr_code", None) or getattr(coro, "gi_code", None)
    if code is None or code.co_filename.startswith(OWN_CODE):
        return ""
    return shortened(str(getattr(coro, "__qualname__", "")))


OWN_CODE: Final = str(sys.modules["milepost"].__file__).rpartition("/")[0] + "/"
"""Where Milepost's own code is."""
