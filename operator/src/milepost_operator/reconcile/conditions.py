"""Conditions of Tasks and Queues, patched only when they say something new."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from milepost_operator.manifests import raw
from milepost_operator.manifests.names import clipped
from milepost_operator.manifests.raw import Manifest, Object
from milepost_operator.manifests.run_cr import stamp


@dataclass(frozen=True, slots=True)
class Said:
    """One condition, less its times."""

    type: str
    holds: bool
    reason: str
    message: str = ""


def merged(body: Object, said: Sequence[Said], now: datetime) -> list[Manifest]:
    """`said` as conditions of `body`, each with the time of its last change; conditions of others stay.

    Each stays in its place, so that writers of some of them agree on the whole.
    """
    generation = raw.number(body, "metadata", "generation")
    made: dict[str, Manifest] = {}
    for one in said:
        before = raw.condition(body, one.type)
        same = before.get("status") == str(one.holds)
        made[one.type] = {
            "type": one.type,
            "status": str(one.holds),
            "reason": one.reason,
            "message": clipped(one.message, 1000),
            "observedGeneration": generation,
            "lastTransitionTime": raw.text(before, "lastTransitionTime") if same else stamp(now),
        }
    kept = [made.pop(raw.text(c, "type"), dict(c)) for c in raw.parts(body, "status", "conditions")]
    return [*kept, *made.values()]


def changes(body: Object, status: Manifest) -> Manifest:
    """The part of `status` that `body` does not show yet."""
    shown = raw.part(body, "status")
    return {key: value for key, value in status.items() if shown.get(key) != value}
