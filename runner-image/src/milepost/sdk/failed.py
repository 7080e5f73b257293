"""Steps that failed for good and whose error the task caught: kept as data, and raised again when they are replayed."""

import json
from functools import partial
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
from milepost.values import pack
from milepost.wire.values import JSON

MAX_TEXT: Final = 8192
MAX_ARGUMENTS: Final = 8192
OURS: Final = (FencedError, SettledError, SidecarLostError, ProtocolError)
"""They end the attempt, and say nothing of the step."""


def describe(error: Exception) -> str:
    """Give the error as the JSON text of a record: its type, message, arguments and trace."""
    kind = type(error)
    message = kept_text(str(error))
    try:
        packed = pack(list(error.args))
        arguments = list(error.args) if packed.types is None and len(packed.text) <= MAX_ARGUMENTS else [message]
    except NotRecordableError:
        arguments = [message]
    trace = kept_text("".join(format_exception(error)))
    named = f"{kind.__module__}:{kind.__qualname__}"
    return pack({"type": named, "message": message, "args": arguments, "trace": trace}).text


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
    return rebuild(json.loads(text))


def _remade(name: str, arguments: list[JSON]) -> Exception | None:
    from milepost.tags import look_up  # noqa: PLC0415  (time zones and all: a third of the import of the SDK)

    found = look_up(name)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return None  # a class of a function, of code that changed, or of a module that the task no longer imports
    for make in (found, partial(found.__new__, found)):
        try:
            return make(*arguments)
        except Exception:  # noqa: BLE001, S112  # its __init__ wants something else: then without it, if that can be
            continue
    return None


def keepable(text: str) -> str:
    """Whatever it holds, it can be kept: what no JSON of ours can hold is escaped."""
    return text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()


def kept_text(text: str) -> str:
    """The end of it, as it can be kept."""
    return keepable(text)[-MAX_TEXT:]
