"""A pod that was made before there is a run for it: loads the task, then asks for the first attempt."""

from collections.abc import Mapping
from dataclasses import dataclass

from milepost.errors import MilepostError
from milepost.runner.load import LoadError, load
from milepost.runner.log import say
from milepost.sdk.client import BlockingSidecar
from milepost.sdk.task import TaskFunction
from milepost.wire.values import JSON


@dataclass(frozen=True, slots=True)
class AheadCode:
    """The answer of GET /v1/code."""

    version: int
    entrypoint: str | None
    source: str | None


def code_of(path: str) -> AheadCode:
    """Ask the sidecar what to load. Raises MilepostError."""
    sidecar = BlockingSidecar(path)
    try:
        answer = sidecar.call("GET", "/v1/code", []).json()
    finally:
        sidecar.close()
    if not isinstance(answer, Mapping):
        raise MilepostError("the sidecar's /v1/code is no object")
    version = answer.get("version")
    return AheadCode(
        version if isinstance(version, int) else 0, _text(answer.get("entrypoint")), _text(answer.get("source"))
    )


def load_ahead(code: AheadCode) -> TaskFunction[..., object] | None:
    """Load the task; None where it can't be. No attempt is there to fail: the container's last lines say why."""
    try:
        return load(code)
    except LoadError as error:
        if error.traceback:
            say(error.traceback)
        say(str(error))
        return None


def _text(value: JSON) -> str | None:
    return value if isinstance(value, str) else None
