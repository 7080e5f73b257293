"""The local protocol: HTTP/1.1 over the unix socket `SOCKET`, between the task container and its sidecar.

The runner speaks it, and so can any language: `curl --unix-socket $MILEPOST_SOCKET http://milepost/v1/attempt`.

| route | body | answer |
|---|---|---|
| GET /v1/attempt | – | 200 Start less `token`, as JSON, `input` a JSON value; waits until the attempt has started |
| GET /v1/records?after=N | – | NDJSON of Record, `value` a JSON value; of a checkpoint the newest version; see below |
| GET /v1/checkpoints/KEY | – | 200 the newest value, header Milepost-Seq; 404 none |
| PUT /v1/checkpoints/KEY | any JSON | 200 {"seq": N} once it is committed |
| GET /v1/steps/KEY | – | 200 the recorded value; 404 none |
| PUT /v1/steps/KEY | any JSON | 200 {"seq": N}; first write wins, a second one: 409 `step-exists` |
| PUT /v1/stream | any JSON | 200 {"position": N} once this part of the run's stream is committed |
| PUT /v1/progress | {"fraction": 0.4, "message": "…"} | 204; passed on with the next heartbeat |
| PUT /v1/result | any JSON | 200 {"state": …} once the run's result is committed |
| PUT /v1/failure | {"type", "message", …}, the members of wire.pod.Failure and its evidence | 200 {"state": …} |
| PUT /v1/suspension | {"waits": [the members of wire.pod.Wait]} | 200 {"state": …}: end without cleaning up |
| GET /v1/control?seen=D | – | waits for a directive other than D; 200 {"directive", "reason", "grace_seconds"} |
| GET /v1/code | – | 200 {"version", "entrypoint", "source"}; waits until it is known; 409: the pod has an attempt |
| PUT /v1/left | {"left": [text, …]} | 204; what the import left that runs can't share |
| POST /v1/next | {"retire", "parent_bytes", "run_id", "attempt"} | waits; 200 the next attempt; 410 `over`: end |
| GET /v1/healthz | – | 200 |

`value` is the last member of a line of records.

KEY is percent-encoded, 1 to 512 bytes. A directive is `cancel` (end within the grace) or `stop` (end at once). Optional
request headers: Milepost-Write-Id (unique string of at most 128 characters; repeat it when a PUT is sent again),
Milepost-Types, Milepost-Fingerprint, Milepost-Failed, Milepost-Usage.

A value, or the result, that is above the attempt's `max_record_bytes` (`max_result_bytes`) may have `max_object_bytes`
where that is not 0: send it with its Content-Length, and again after a while when the answer is 503. Of such a record
GET /v1/records tells `object_bytes` and no `value`: ask for it by its key.

Errors are problem+json with `code`, `detail` and, for a value that can't be kept, `path` (a JSON path such as
`$.items[3].when`).
"""

from typing import Final

SOCKET_ENV: Final = "MILEPOST_SOCKET"
SOCKET: Final = "/run/milepost/sidecar.sock"
SCRATCH_ENV: Final = "MILEPOST_SCRATCH"
"""Directories that are the run's alone, with a colon between them: emptied before the pod takes another run.

Where it is not set, the runner ends with its first attempt.
"""
AHEAD_ENV: Final = "MILEPOST_AHEAD"
"""Set where the pod was made before there is a run for it: the runner loads the task (GET /v1/code), then asks for its
first attempt as for any next one (POST /v1/next, `run_id` empty).
"""
WRITE_ID: Final = "Milepost-Write-Id"
TYPES: Final = "Milepost-Types"
FINGERPRINT: Final = "Milepost-Fingerprint"
SEQ: Final = "Milepost-Seq"
FAILED: Final = "Milepost-Failed"
"""`true`: the step failed for good and the task caught its error, which is the value."""
USAGE: Final = "Milepost-Usage"
"""JSON object of what the attempt used, by the names of wire.pod.Evidence; of result, failure and suspension."""

VALUE: Final = b',"value":'
"""What stands before the value in a line of records. (Within a JSON string a quote has a backslash before it.)"""

EXIT_CONFIG: Final = 64
EXIT_SIDECAR: Final = 65
EXIT_FENCED: Final = 75
EXIT_FAILED: Final = 70
"""Exit codes of the runner: the task can't be loaded; no sidecar; fenced or told to stop; failed and settled."""
