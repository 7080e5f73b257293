"""Runs for tests of what is shown of them."""

from datetime import UTC, datetime
from uuid import UUID

from milepost_operator.domain.runs import RunView
from milepost_operator.domain.states import RunState


def view(run_id: UUID, **changes: object) -> RunView:
    """A running run of the API."""
    fields: dict[str, object] = {
        "run_id": run_id,
        "namespace": "team",
        "name": "run",
        "task": "index",
        "queue": "default",
        "state": RunState.RUNNING,
        "rev": 2,
        "attempt": 1,
        "attempts_counted": 0,
        "max_attempts": 3,
        "origin": "api",
        "tags": [],
        "last_seq": 0,
        "input": "{}",
        "dead_lettered": False,
        "created_at": datetime.now(UTC),
    }
    absent = dict.fromkeys(RunView.__dataclass_fields__.keys() - fields.keys())
    return RunView(**(absent | fields | changes))  # type: ignore[arg-type]
