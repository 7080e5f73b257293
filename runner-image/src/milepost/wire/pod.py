"""The pod protocol: HTTPS with JSON bodies between a pod's sidecar and the api, below `/pod/v1`.

Every request but the first carries `Authorization: Bearer <session token>`. Every write names its attempt by
`Fence(run_id, attempt, token)`; the api checks it in the statement that writes. JSON values of users travel as JSON
*text* inside a string field, so that what was written is what is read, to the byte.

| route | body | answer |
|---|---|---|
| POST /session (bearer: projected ServiceAccount token) | SessionRequest | Session |
| POST /start | – | Start, the same again for a restarted sidecar; 409 `no-attempt-yet`: ask by /next |
| GET /code | – | Code, for a pod that has had no attempt yet: it is made ready for one |
| POST /left | LeftRequest | 204 |
| POST /next | NextRequest | NextAnswer, within 20 s; 410: the pod ends |
| GET /records?run_id&attempt&token&after&newest&lines | – | NDJSON of Record in commit order; see below |
| GET /records/newest?run_id&attempt&token&kind&key | – | Record or 404 |
| POST /records | RecordsRequest | RecordsAnswer |
| PUT /objects | a line of ObjectHead as JSON, then the value itself | ObjectAnswer |
| GET /objects?run_id&attempt&token&seq | – | the value of that record, which is in object storage |
| POST /stream | StreamRequest | StreamAnswer; 413 `stream-full` |
| POST /heartbeat | HeartbeatRequest | HeartbeatAnswer |
| POST /settle | SettleRequest | SettleAnswer |

Of GET /records, `newest=true` leaves out the versions of a checkpoint that have a newer one. `lines=plain` asks for the
lines of the local protocol, in which the value is the JSON value itself and the last member: a sidecar passes them on
as they are. An answer in that form says so (header `Milepost-Lines: plain`). A line has no `depth` where the text of
its value is not the one that is kept (a line break of it is a space in its line), and `object_bytes` in place of a
value that is in object storage.

Errors are problem+json (RFC 9457): 401 no or bad token, 403 another pod's, 409 finished or fenced attempt (member
`code`: `fenced`, `settled`, `step-exists`, `unknown-base`), 410 the pod's row is closed, 413 too large (`run-limit`:
more than the run may record; members `limit`, `most`, `key`), 422 not a value we can keep (members `code`, `path`), 503
with Retry-After when Postgres cannot commit or the object storage cannot answer, 507 `storage-refused` when the object
storage does not take us as it is configured.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

from milepost.wire.evidence import Evidence as Evidence  # noqa: PLC0414
from milepost.wire.evidence import FailureKind as FailureKind  # noqa: PLC0414
from milepost.wire.wait import MAX_KEY_BYTES as MAX_KEY_BYTES  # noqa: PLC0414
from milepost.wire.wait import Wait as Wait  # noqa: PLC0414
from milepost.wire.wait import WaitKind as WaitKind  # noqa: PLC0414

PREFIX: Final = "/pod/v1"
LINES: Final = "Milepost-Lines"
PLAIN: Final = "plain"
AUDIENCE: Final = "milepost"
MAX_WRITE_ID_CHARS: Final = 128
MAX_WAITS: Final = 1000
NO_ATTEMPT_YET: Final = "no-attempt-yet"
"""Code of the answer to /start for a pod that has had no attempt, and will get one by /next."""
MAX_OBJECT_HEAD: Final = 65_536

RecordKind = Literal["step", "checkpoint"]
Cause = Literal["first", "retry", "resume", "infra"]
Outcome = Literal["succeeded", "failed", "suspended"]
OnChange = Literal["fail", "hold", "accept"]
Directive = Literal["continue", "cancel"]


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """`reusable`: this pod can take another attempt once one is settled, and asks for it by /next."""

    pod_id: str
    reusable: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """`token` is valid for `expires_in_seconds` and renewed by a new session; it outlives an outage of Kubernetes."""

    token: str
    expires_in_seconds: int


@dataclass(frozen=True, slots=True)
class Fence:
    """One attempt's right to write: `token` grows with each attempt of the run and only the newest is accepted."""

    run_id: str
    attempt: int
    token: int


@dataclass(frozen=True, slots=True)
class ResolvedWait:
    """What came of a wait. `value`: JSON text; the signal's payload, or a child's state, result and error."""

    key: str
    kind: WaitKind
    timed_out: bool
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """All that an attempt needs to know. `input` is JSON text. Times are seconds; sizes are bytes.

    `records`: how many records earlier attempts left; `last_seq`: the newest of them (0: none). `waits`: those that are
    resolved, less those that the run has recorded as a step of the same key. `on_change`: what becomes of the run when
    its code does not fit its records any more; `accepted`: it is accept since somebody decided so of this run, which is
    held again by what can't be accepted. `origin`: what made the run. `key_run`: the run whose id the idempotency keys
    of its steps have (None: its own). `attempts_counted`: how many failures count against `max_attempts` so far.
    `deltas`: the api takes them. `max_object_bytes`: of a value that goes to object storage since it is above the
    limit of a record or result; 0: there is no such storage.
    """

    run_id: str
    run_name: str
    namespace: str
    task: str
    version: int
    attempt: int
    token: int
    cause: Cause
    input: str
    tags: list[str]
    entrypoint: str | None
    command: list[str] | None
    source: str | None
    max_attempts: int
    attempt_seconds: int
    lease_seconds: float
    beat_seconds: float
    max_record_bytes: int
    max_result_bytes: int
    grace_seconds: int
    on_partition: Literal["continue", "stop"]
    records: int
    last_seq: int
    last_key: str | None
    created_at: str
    waits: list[ResolvedWait] = field(default_factory=list)
    on_change: OnChange = "fail"
    origin: str = "api"
    key_run: str | None = None
    attempts_counted: int = 0
    deltas: bool = False
    accepted: bool = False
    max_object_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Code:
    """What a pod imports before it has a run: `entrypoint` and `source` as of Start."""

    version: int
    entrypoint: str | None
    source: str | None


@dataclass(frozen=True, slots=True)
class LeftRequest:
    """The import of the task left something that its runs can't share. `left`: a few words for each (`thread X`)."""

    left: list[str]


@dataclass(frozen=True, slots=True)
class NextRequest:
    """The pod has nothing to do: its last attempt is settled, and nothing is left of that attempt's processes.

    `retire`: why it can't take another one (a word); then it ends. `parent_bytes`: memory of the runner's parent.
    """

    retire: str | None = None
    parent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class NextAnswer:
    """`work`: an attempt waits for this pod, and /start begins it (410, 409: it went elsewhere). Else ask again."""

    work: bool


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it is kept. `value` is JSON text; `types` the type tags of the value (JSON text) or None.

    `failed`: a step that failed for good, whose error the task caught; `value` is then the error. `depth`: of how many
    deltas it is kept. `object_bytes`: the value is in object storage and has so many; `value` is empty then.
    """

    seq: int
    kind: RecordKind
    key: str
    value: str
    types: str | None = None
    fingerprint: str | None = None
    attempt: int = 0
    failed: bool = False
    depth: int = 0
    object_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RecordWrite:
    """`write_id` (any unique string of the writer) makes a retransmission harmless. `failed`: as of Record.

    Instead of the value (which is left out then), `delta` (wire.delta, as JSON text) tells how it differs from that of
    the record `base` of the same run; `size`: bytes of the whole value. An api that can't put it together refuses it:
    then the value is sent.
    """

    write_id: str
    kind: RecordKind
    key: str
    value: str = ""
    types: str | None = None
    fingerprint: str | None = None
    failed: bool = False
    delta: str | None = None
    base: int | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class RecordsRequest:
    fence: Fence
    records: list[RecordWrite]


@dataclass(frozen=True, slots=True)
class RecordsAnswer:
    """Commit sequence of each record, in the order of the request."""

    seqs: list[int]


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What goes before a value of `size` bytes of JSON text, for object storage: that of `record` (whose own `value` is
    left out), or the run's result where there is none. It has at most MAX_OBJECT_HEAD bytes, with the line's end.
    """

    fence: Fence
    size: int
    record: RecordWrite | None = None


@dataclass(frozen=True, slots=True)
class ObjectAnswer:
    """`seq`: of the record, which is committed. `object`: of a result, to be named by SettleRequest."""

    seq: int | None = None
    object: str | None = None


@dataclass(frozen=True, slots=True)
class ChunkWrite:
    """A part of the run's stream. `value` is JSON text; `write_id` as of RecordWrite."""

    write_id: str
    value: str


@dataclass(frozen=True, slots=True)
class StreamRequest:
    fence: Fence
    chunks: list[ChunkWrite]


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """Position of each chunk in the run's stream, from 1, in the order of the request."""

    positions: list[int]


@dataclass(frozen=True, slots=True)
class HeartbeatRequest:
    fence: Fence
    progress: float | None = None
    progress_message: str | None = None


@dataclass(frozen=True, slots=True)
class HeartbeatAnswer:
    directive: Directive
    grace_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. `retryable` is the task's own word; None leaves it to the kind.

    Kind `changed`: the code does not fit the records; the run is held for a decision, with `retryable` False it fails.
    """

    kind: FailureKind
    type: str
    message: str
    traceback: str = ""
    retryable: bool | None = None
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SettleRequest:
    """With `succeeded` goes a `result` (JSON text), or the `result_object` that holds it; `failure` with `failed`,
    `waits` with `suspended`.

    A run that is suspended holds nothing: its pod is closed, its slot is free. The answer's state is `suspended`, or
    `queued` when one of the waits is over already.
    """

    fence: Fence
    outcome: Outcome
    result: str | None = None
    failure: Failure | None = None
    evidence: Evidence = field(default_factory=Evidence)
    waits: list[Wait] = field(default_factory=list)
    result_object: str | None = None


@dataclass(frozen=True, slots=True)
class SettleAnswer:
    """The run's state after it."""

    state: str
