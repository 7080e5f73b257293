"""Asks the sidecar for the pod's attempts, for as long as there may be one."""

import time
from collections.abc import Mapping
from typing import Final

from milepost.errors import MilepostError
from milepost.net.blocking import BlockingClient
from milepost.net.messages import Reply, TransportError, compact
from milepost.runner.load import Code
from milepost.sdk.local import Patience, refusal
from milepost.sdk.run import AttemptInfo, RunInfo

OK: Final = 200
END: Final = frozenset({404, 410})
"""410: it is over; 404: a sidecar that knows of no second attempt."""
STEADY_SECONDS: Final = 5.0


def next_attempt(path: str, ended: RunInfo | None, retire: str | None, parent_bytes: int) -> AttemptInfo | None:
    """Wait for the attempt after `ended` (None: for the first); None when the pod has to end. Raises MilepostError.

    `retire`: why the pod must not get another. A sidecar that is restarted meanwhile is asked again.
    """
    run_id, attempt = (ended.id, ended.attempt) if ended else ("", 0)
    body = compact({"retire": retire, "parent_bytes": parent_bytes, "run_id": run_id, "attempt": attempt})
    return _attempt(path, "POST", "/v1/next", body)


def first_attempt(path: str) -> AttemptInfo | None:
    """Wait for the pod's first attempt; None when the pod has to end without one. Raises MilepostError."""
    return _attempt(path, "GET", "/v1/attempt", b"")


def _attempt(path: str, method: str, target: str, body: bytes) -> AttemptInfo | None:
    client = BlockingClient(path)  # a connection of its own: what belongs to the attempt is asked on later ones
    try:
        reply = _asked(client, method, target, body)
    finally:
        client.close()
    if reply.status in END:
        return None
    answer = reply.json() if reply.status == OK else None
    if not isinstance(answer, Mapping):
        raise refusal(reply)
    return AttemptInfo.from_json(answer)


def _asked(client: BlockingClient, method: str, target: str, body: bytes) -> Reply:
    patience = Patience()
    while True:
        began = time.monotonic()
        try:
            reply = client.request(method, target, [("Content-Type", "application/json")] if body else [], body)
            pause = patience.busy(reply)
        except TransportError as error:
            if time.monotonic() - began > STEADY_SECONDS:
                patience = Patience()  # it was there meanwhile: only now it is gone
            pause = patience.broken(error)
        else:
            if pause is None:
                return reply
        time.sleep(pause)


def require_same_task(attempt: AttemptInfo, loaded: Code) -> None:
    """Check that the pod was given a run of the task that it has imported. Raises MilepostError."""
    if (attempt.entrypoint, attempt.source) != (loaded.entrypoint, loaded.source):
        raise MilepostError(f"this pod has another task's code, and was given a run of version {attempt.run.version}")
