"""Steps that failed for good and whose error the task caught: kept as data, and raised again when they are replayed."""

import sys
from importlib import import_module
from traceback import format_exception
from typing import Final

from milepost.errors import (
    FencedError,
    NotRecordableError,
    ProtocolError,
    SettledError,
    SidecarLostError,
    StepFailedError,
)
from milepost.values import decode, encode
from milepost.wire.values import JSON

MAX_TEXT: Final = 8192
MAX_ARGUMENTS: Final = 8192
OURS: Final = (FencedError, SettledError, SidecarLostError, ProtocolError)
"""They end the attempt, and say nothing of the step."""


def describe(error: Exception) -> str:
    """Give the error as the JSON text of a record: its type, message, arguments and trace."""
    kind = type(error)
    message = _text(str(error))
    try:
        arguments = list(error.args) if len(encode(list(error.args))) <= MAX_ARGUMENTS else [message]
    except NotRecordableError:
        arguments = [message]
    trace = _text("".join(format_exception(error)))
    return encode(
        {"type": f"{kind.__module__}:{kind.__qualname__}", "message": message, "args": arguments, "trace": trace}
    )


def rebuild(data: JSON) -> Exception:
    """Make the error that `describe` was given: of its own type where that can be made again, else StepFailedError."""
    facts = data if isinstance(data, dict) else {"message": str(data)}
    name, message, arguments = str(facts.get("type", "")), str(facts.get("message", "")), facts.get("args")
    error = _remade(name, arguments if isinstance(arguments, list) else [message])
    error = error or StepFailedError(name, message)
    if trace := facts.get("trace"):
        error.add_note(f"recorded when the step failed:\n{trace}")
    return error


def recorded(text: str | bytes) -> Exception:
    """Make the error of a record's value."""
    return rebuild(decode(text))


def _remade(name: str, arguments: list[JSON]) -> Exception | None:
    module, _, path = name.partition(":")
    try:
        found: object = sys.modules.get(module) or import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        if not (isinstance(found, type) and issubclass(found, Exception)):
            return None
        try:
            made = found(*arguments)
        except Exception:  # noqa: BLE001  # its __init__ wants something else: the error without it is better than none
            made = found.__new__(found, *arguments)
    except Exception:  # noqa: BLE001  # a class of a function, of code that changed, or one that can't be made so
        return None
    return made


def _text(text: str) -> str:
    """Whatever it holds, it can be kept."""
    return text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()[-MAX_TEXT:]
