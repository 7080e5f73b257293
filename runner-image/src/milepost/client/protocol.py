"""Calls and answers without any input or output: what both clients send, and when they try again."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode, urlsplit

from milepost.client.errors import AnswerError, ApiError, error_of
from milepost.client.models import Chunk, Created, Run, Trigger, record
from milepost.net.messages import Headers, Reply, jitter
from milepost.wire.values import JSON

MAX_BATCH: Final = 1000
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
POLL_SECONDS: Final = 30.0
"""How long one request waits for the end of a run."""
CALL_SECONDS: Final = 30.0
"""How long one try of a call may take, beyond what it was asked to wait."""
_LATER: Final = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Address:
    """Where the API is. `base`: a path before its own."""

    tls: bool
    host: str
    port: int
    base: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def address_of(url: str) -> Address:
    """Parse the address. Raises ValueError for one that no request can go to."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
        raise ValueError(f"{url!r} is no address of an API: write https://host:port")
    tls = parts.scheme == "https"
    return Address(tls, parts.hostname, parts.port or (443 if tls else 80), parts.path.rstrip("/"))


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `seconds`: how long its answer may take. `limit`: see Tries."""

    method: str
    target: str
    body: bytes = b""
    seconds: float = CALL_SECONDS

    @property
    def name(self) -> str:
        return f"{self.method} {self.target.partition('?')[0]}"


class Tries:
    """How often and how long a call is tried: at most `tries` times, with pauses of at most `patience` seconds in all.

    Every call can be sent twice without harm: a trigger has a key of its own.
    """

    def __init__(self, call: Call, tries: int, patience: float) -> None:
        self._call = call
        self._left = tries
        self._patience = patience
        self._pause = 0.1

    def settled(self, reply: Reply) -> JSON:
        """The answer's value. Raises Again to try once more, or an ApiError."""
        if reply.status < 300:  # noqa: PLR2004
            try:
                return reply.json()
            except ValueError as error:
                raise AnswerError(f"{self._call.name}: the answer is not JSON: is this a Milepost API?") from error
        refusal = error_of(self._call.name, reply.status, reply.problem(), reply.retry_after)
        if reply.status not in _LATER:
            raise refusal
        raise self._again(reply.retry_after, refusal)

    def broken(self, reason: str) -> Exception:
        """What to raise after an exchange that brought no answer: Again, or an UnavailableError."""
        return self._again(None, self._error(503, f"no answer: {reason}"))

    def _again(self, asked: float | None, error: ApiError) -> Exception:
        self._left -= 1
        pause = self._pause * jitter() if asked is None else asked * (1 + 0.2 * (jitter() - 0.5))
        self._pause = min(self._pause * 2, 5.0)
        if self._left <= 0 or pause > self._patience:
            return error
        self._patience -= pause
        return Again(pause)

    def _error(self, status: int, detail: str) -> ApiError:
        return error_of(self._call.name, status, {"code": "unreachable", "detail": detail})


class Again(Exception):  # noqa: N818  (not an error: a request to wait)
    """Try again after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def headers_of(token: str, call: Call) -> Headers:
    headers = [("Authorization", f"Bearer {token}"), ("Accept", "application/json"), ("User-Agent", "milepost-client")]
    return [*headers, ("Content-Type", "application/json")] if call.body else headers


def trigger_call(base: str, trigger: Trigger) -> Call:
    return Call("POST", f"{base}/v1/runs", trigger.text.encode())


def batch_calls(base: str, triggers: Sequence[Trigger]) -> Iterator[Call]:
    """As many batches as it takes: each has at most 1,000 items, and 4 MiB unless one item is larger."""
    part: list[bytes] = []
    size = 0
    for trigger in triggers:
        item = trigger.text.encode()
        if part and (len(part) == MAX_BATCH or size + len(item) > MAX_BATCH_BYTES):
            yield _batch(base, part)
            part, size = [], 0
        part.append(item)
        size += len(item) + 1
    if part:
        yield _batch(base, part)


def _batch(base: str, items: Sequence[bytes]) -> Call:
    return Call("POST", f"{base}/v1/runs/batch", b'{"items":[' + b",".join(items) + b"]}")


def batch_answers(call: Call, value: JSON) -> list[Created | ApiError]:
    """Per item its run, or why there is none."""
    items = value.get("items") if isinstance(value, dict) else None
    if not isinstance(items, list):
        raise AnswerError("the answer to a batch has no items")
    answers: list[Created | ApiError] = []
    for item in items:
        told = item if isinstance(item, dict) else {}
        status, problem, retry = told.get("status"), told.get("error"), told.get("retryAfterSeconds")
        if not isinstance(problem, dict):
            answers.append(record(Created, told.get("run")))
            continue
        answers.append(
            error_of(
                call.name,
                status if isinstance(status, int) else 500,
                problem,
                float(retry) if isinstance(retry, int | float) else None,
            )
        )
    return answers


def run_call(base: str, run: str, namespace: str | None, wait: float = 0.0) -> Call:
    query = _query({"namespace": namespace, "wait": f"{wait:.3f}" if wait else None})
    return Call("GET", f"{base}/v1/runs/{quote(run, safe='')}{query}", seconds=CALL_SECONDS + wait)


def result_call(base: str, run: Run) -> Call:
    return Call("GET", f"{base}/v1/runs/{quote(run.id, safe='')}/result{_query({'namespace': run.namespace})}")


def cancel_call(base: str, run: str, namespace: str | None) -> Call:
    return Call("POST", f"{base}/v1/runs/{quote(run, safe='')}/cancel{_query({'namespace': namespace})}")


def decision_call(base: str, run: str, decision: str, namespace: str | None) -> Call:
    path = f"/v1/runs/{quote(run, safe='')}/decision{_query({'namespace': namespace})}"
    return Call("POST", base + path, json.dumps({"decision": decision}).encode())


def stream_call(base: str, run: str, namespace: str | None, after: int) -> Call:
    query = _query({"namespace": namespace, "after": str(after), "wait": f"{POLL_SECONDS:.3f}"})
    return Call("GET", f"{base}/v1/runs/{quote(run, safe='')}/stream{query}", seconds=CALL_SECONDS + POLL_SECONDS)


def stream_page(value: JSON) -> tuple[list[Chunk], int, bool]:
    """Chunks, where to go on, and whether that was the end."""
    told = value if isinstance(value, dict) else {}
    items, following, ended = told.get("items"), told.get("next"), told.get("ended")
    if not isinstance(items, list) or not isinstance(following, int) or not isinstance(ended, bool):
        raise AnswerError("the answer to the stream of a run has no items")
    return [record(Chunk, item) for item in items], following, ended


def list_call(base: str, filters: Mapping[str, str | None], cursor: str | None) -> Call:
    return Call("GET", f"{base}/v1/runs{_query({**filters, 'cursor': cursor})}")


def page_of(value: JSON) -> tuple[list[JSON], str | None]:
    """Items of a list and where to go on."""
    items = value.get("items") if isinstance(value, dict) else None
    cursor = value.get("nextCursor") if isinstance(value, dict) else None
    if not isinstance(items, list):
        raise AnswerError("the answer to a list has no items")
    return items, cursor if isinstance(cursor, str) else None


class Deadline:
    """How long a wait for a run still takes. `timeout` None: for ever."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float:
        """Seconds for the next request; 0 when the time is over."""
        return POLL_SECONDS if self._end is None else max(0.0, min(POLL_SECONDS, self._end - time.monotonic()))


def _query(values: Mapping[str, str | None]) -> str:
    given = {name: value for name, value in values.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def token_of(token: str | None) -> str:
    """The token, or that of the environment (MILEPOST_TOKEN). Raises ValueError when there is none."""
    found = token or os.environ.get("MILEPOST_TOKEN", "")
    if not found or found.split() != [found]:
        raise ValueError("pass token=, or set MILEPOST_TOKEN: one word, as in the API's token file")
    return found
