"""The local protocol, asked of the true sidecar (a process, on the pod protocol) and of the one in memory."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from milepost.net.messages import Headers, Reply
from milepost.testing import MemorySidecar
from milepost.testing.memory import Rows
from milepost.wire.pod import Start
from tests.fakes.podapi import FakeApi
from tests.unit.sdk.conftest import Pod, curl

FACTS = {"max_record_bytes": 1000, "max_result_bytes": 500, "input": '{"a": 1.50}'}


@dataclass
class Asked:
    """`ask`: one request. `next_attempt`: another pod begins, and its sidecar is asked from now on."""

    ask: Callable[..., Awaitable[Reply]]
    next_attempt: Callable[[], Awaitable[None]]


def in_memory(**limits: int) -> Asked:
    rows = Rows()
    sidecars: list[MemorySidecar] = []

    def start() -> MemorySidecar:
        number = len(sidecars) + 1
        facts = {
            "run_id": "run-1", "run_name": "r1", "namespace": "default", "task": "demo", "version": 1,
            "attempt": number, "token": number, "cause": "first" if number == 1 else "retry", "tags": ["a"],
            "entrypoint": None, "command": None, "source": None, "max_attempts": 3, "attempt_seconds": 600,
            "lease_seconds": 10.0, "beat_seconds": 0.05, "grace_seconds": 1, "on_partition": "continue",
            "records": len(rows.records), "last_seq": len(rows.records),
            "last_key": rows.records[-1].key if rows.records else None, "created_at": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        return MemorySidecar(
            Start(**(facts | FACTS | limits)), rows, lambda s: "succeeded" if s.failure is None else "backoff"
        )

    sidecars.append(start())

    async def ask(method: str, path: str, body: bytes = b"", headers: Headers | None = None, at: int = -1) -> Reply:
        return sidecars[at].request(method, path, headers or [], body)

    async def next_attempt() -> None:
        sidecars.append(start())

    return Asked(ask, next_attempt)


async def of_processes(home: Path, stack: AsyncExitStack, **limits: int) -> Asked:
    api = await stack.enter_async_context(FakeApi(start=FACTS | limits).serving())
    clients = []

    async def begin() -> None:
        place = home / str(len(clients))
        place.mkdir()
        pod = Pod(api, place, stack)
        await pod.start_sidecar()
        clients.append(await pod.connected())
        await curl(clients[-1], "GET", "/v1/attempt")  # waits for the start

    async def ask(method: str, path: str, body: bytes = b"", headers: Headers | None = None, at: int = -1) -> Reply:
        return await curl(clients[at], method, path, body, headers)

    async def next_attempt() -> None:
        api.next_attempt()
        await begin()

    await begin()
    return Asked(ask, next_attempt)


@pytest.fixture(params=["process", "memory"])
async def asked(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Asked]:
    async with AsyncExitStack() as stack:
        yield in_memory() if request.param == "memory" else await of_processes(tmp_path, stack)


@pytest.fixture(params=["process", "memory"])
async def large(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Reply]]]:
    """As `ask`, where values above the limit go to object storage."""
    async with AsyncExitStack() as stack:
        limits = {"max_object_bytes": 10_000}
        asked = in_memory(**limits) if request.param == "memory" else await of_processes(tmp_path, stack, **limits)
        yield asked.ask


@pytest.fixture
def ask(asked: Asked) -> Callable[..., Awaitable[Reply]]:
    return asked.ask


async def test_the_attempt(ask):
    reply = await ask("GET", "/v1/attempt")
    facts = reply.json()
    assert reply.status == 200
    assert b'"input":{"a": 1.50}' in reply.body
    assert {"token", "value"} & facts.keys() == set()
    assert (facts["attempt"], facts["cause"], facts["records"], facts["waits"]) == (1, "first", 0, [])


async def test_a_step_is_recorded_once(ask):
    headers = [("Milepost-Types", '"x"'), ("Milepost-Fingerprint", "f1")]
    assert (await ask("PUT", "/v1/steps/a%2Fb%20%C3%A9", b'{"n": 1.50}', headers)).json() == {"seq": 1}
    again = await ask("PUT", "/v1/steps/a%2Fb%20%C3%A9", b"2")
    assert (again.status, again.problem()["code"]) == (409, "step-exists")
    assert again.headers["content-type"] == "application/problem+json"
    got = await ask("GET", "/v1/steps/a/b%20%C3%A9")
    assert (got.status, got.body) == (200, b'{"n": 1.50}')
    assert {k: v for k, v in got.headers.items() if k.startswith("milepost")} == {
        "milepost-seq": "1", "milepost-types": '"x"', "milepost-fingerprint": "f1",
    }  # fmt: skip


async def test_checkpoints_have_versions(ask):
    for n in (1, 2):
        assert (await ask("PUT", "/v1/checkpoints/done", str(n).encode())).json() == {"seq": n}
    assert (await ask("GET", "/v1/checkpoints/done")).body == b"2"
    missing = await ask("GET", "/v1/steps/done")
    assert (missing.status, missing.problem()["code"]) == (404, "no-record")


async def test_a_repeated_write_is_recorded_once(ask):
    headers = [("Milepost-Write-Id", "w1")]
    for _ in range(2):
        assert (await ask("PUT", "/v1/checkpoints/c", b"1", headers)).json() == {"seq": 1}
        assert (await ask("PUT", "/v1/steps/s", b"1", [("Milepost-Write-Id", "w2")])).json() == {"seq": 2}
    assert len((await ask("GET", "/v1/records?after=0")).body.splitlines()) == 2


async def test_all_records_are_told_in_order(ask):
    await ask("PUT", "/v1/steps/a", b'{"x": 1.50,\n "y": "\xc3\xa9"}')
    await ask("PUT", "/v1/checkpoints/c", b"[1]", [("Milepost-Types", "t")])
    await ask("PUT", "/v1/steps/b", b'{"message": "no"}', [("Milepost-Failed", "true")])
    reply = await ask("GET", "/v1/records?after=0")
    lines = [json.loads(line) for line in reply.body.splitlines()]
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert [(r["seq"], r["kind"], r["key"], r["failed"], r["types"], r["attempt"]) for r in lines] == [
        (1, "step", "a", False, None, 1), (2, "checkpoint", "c", False, "t", 1), (3, "step", "b", True, None, 1),
    ]  # fmt: skip
    assert b'{"x": 1.50,' in reply.body
    assert [json.loads(r)["seq"] for r in (await ask("GET", "/v1/records?after=2")).body.splitlines()] == [3]
    assert (await ask("GET", "/v1/steps/b")).headers["milepost-failed"] == "true"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "code", "place"),
    [
        ("GET", "/v1/nothing", b"", [], 404, "no-such-route", None),
        ("POST", "/v1/result", b"1", [], 405, "method-not-allowed", None),
        ("DELETE", "/v1/steps/a", b"", [], 405, "method-not-allowed", None),
        ("PUT", "/v1/steps/", b"1", [], 400, "bad-key", None),
        ("PUT", "/v1/steps/%FF", b"1", [], 400, "bad-key", None),
        ("PUT", "/v1/steps/" + "k" * 513, b"1", [], 400, "bad-key", None),
        ("GET", "/v1/records?after=x", b"", [], 400, "bad-after", None),
        ("PUT", "/v1/steps/a", b"1", [("Milepost-Write-Id", "w" * 129)], 400, "bad-write-id", None),
        ("PUT", "/v1/steps/a", b"1", [("Milepost-Failed", "perhaps")], 400, "bad-failed", None),
        ("PUT", "/v1/checkpoints/a", b"1", [("Milepost-Failed", "true")], 400, "bad-failed", None),
        ("PUT", "/v1/steps/a", b"{", [], 422, "not-json", "$"),
        ("PUT", "/v1/steps/a", b'{"a": [NaN]}', [], 422, "not-finite", "$"),
        ("PUT", "/v1/steps/a", b'{"a": [9223372036854775808]}', [], 422, "int-too-large", "$.a[0]"),
        ("PUT", "/v1/steps/a", b'["\\u0000"]', [], 422, "nul-character", "$[0]"),
        ("PUT", "/v1/steps/a", b'["\\ud800"]', [], 422, "lone-surrogate", "$[0]"),
        ("PUT", "/v1/steps/a", b'{"big": "' + b"x" * 1000 + b'"}', [], 413, "too-large", "$.big"),
        ("PUT", "/v1/stream", b'["' + b"x" * 1000 + b'"]', [], 413, "too-large", "$[0]"),
        ("PUT", "/v1/stream", b"NaN", [], 422, "not-finite", "$"),
        ("PUT", "/v1/result", b'["' + b"x" * 500 + b'"]', [], 413, "too-large", "$[0]"),
        ("PUT", "/v1/progress", b'{"fraction": 2}', [], 422, "bad-member", "$.fraction"),
        ("PUT", "/v1/progress", b'{"part": 2}', [], 422, "unknown-member", "$.part"),
        ("PUT", "/v1/failure", b"[]", [], 422, "not-an-object", "$"),
        ("PUT", "/v1/failure", b'{"kind": "odd"}', [], 422, "bad-member", "$.kind"),
        ("PUT", "/v1/suspension", b'{"waits": []}', [], 422, "bad-member", "$.waits"),
    ],
)
async def test_misuse_is_refused(ask, method, path, body, headers, status, code, place):  # noqa: PLR0917
    reply = await ask(method, path, body, headers)
    problem = reply.problem()
    assert (reply.status, problem.get("code"), problem.get("path")) == (status, code, place), problem
    assert problem["status"] == status
    assert problem["detail"]
    assert (await ask("GET", "/v1/records?after=0")).body == b""
    assert (await ask("GET", "/v1/healthz")).json() == {"phase": "running"}


async def test_the_stream_is_numbered_and_tells_a_repeated_part_once(ask):
    headers = [("Milepost-Write-Id", "c1")]
    for _ in range(2):
        assert (await ask("PUT", "/v1/stream", b'{"token": "a"}', headers)).json() == {"position": 1}
    assert (await ask("PUT", "/v1/stream", b'"b"')).json() == {"position": 2}
    assert (await ask("GET", "/v1/records?after=0")).body == b""
    assert (await ask("GET", "/v1/stream")).status == 405


async def test_large_values_are_taken_where_there_is_object_storage(large):
    big = b'["' + b"x" * 3000 + b'"]'
    for _ in range(2):
        assert (await large("PUT", "/v1/steps/big", big, [("Milepost-Write-Id", "w1")])).json() == {"seq": 1}
    assert (await large("PUT", "/v1/checkpoints/state", big)).json() == {"seq": 2}
    assert (await large("GET", "/v1/steps/big")).body == big
    assert (await large("GET", "/v1/checkpoints/state")).headers["milepost-seq"] == "2"
    lines = [json.loads(line) for line in (await large("GET", "/v1/records?after=0")).body.splitlines()]
    assert [(r["key"], r["object_bytes"], "value" in r) for r in lines] == [
        ("big", len(big), False), ("state", len(big), False),
    ]  # fmt: skip
    bad = await large("PUT", "/v1/steps/bad", big[:-1])
    assert (bad.status, bad.problem()["code"]) == (422, "not-json")
    headers = [("Milepost-Write-Id", "end")]
    for _ in range(2):
        assert (await large("PUT", "/v1/result", big, headers)).json() == {"state": "succeeded"}


async def test_progress_is_taken(ask):
    assert (await ask("PUT", "/v1/progress", b'{"fraction": 0.5, "message": "half"}')).status == 204


async def test_a_settled_attempt_writes_nothing_more(ask):
    headers = [("Milepost-Write-Id", "end")]
    for _ in range(2):
        assert (await ask("PUT", "/v1/result", b'{"n": 1}', headers)).json() == {"state": "succeeded"}
    other = await ask("PUT", "/v1/result", b'{"n": 2}', [("Milepost-Write-Id", "other")])
    assert (other.status, other.problem()["code"], other.problem()["state"]) == (409, "settled", "succeeded")
    late = await ask("PUT", "/v1/steps/late", b"1")
    assert (late.status, late.problem()["code"]) == (409, "settled")
    assert (await ask("GET", "/v1/healthz")).json() == {"phase": "settled"}


async def test_a_failure_is_settled_with_its_facts(ask):
    body = b'{"type": "Timeout", "message": "slow", "retryable": true, "evidence": {"exit_code": 1}}'
    assert (await ask("PUT", "/v1/failure", body)).json() == {"state": "backoff"}
    assert (await ask("PUT", "/v1/failure", body)).json() == {"state": "backoff"}


async def test_the_next_attempt_reads_and_fences(asked):
    await asked.ask("PUT", "/v1/steps/a", b"1")
    await asked.next_attempt()
    facts = (await asked.ask("GET", "/v1/attempt")).json()
    assert (facts["attempt"], facts["records"], facts["last_key"]) == (2, 1, "a")
    assert (await asked.ask("GET", "/v1/steps/a")).body == b"1"
    old = (("GET", "/v1/steps/a"), ("GET", "/v1/records?after=0"), ("PUT", "/v1/steps/b", b"1"))
    for request in (*old, ("PUT", "/v1/stream", b"1"), ("PUT", "/v1/result", b"1")):
        refused = await asked.ask(*request, at=0)
        assert (refused.status, refused.problem()["code"]) == (409, "fenced")
    assert (await asked.ask("GET", "/v1/control", at=0)).json()["directive"] == "stop"
    assert (await asked.ask("PUT", "/v1/steps/b", b"2")).json() == {"seq": 2}
