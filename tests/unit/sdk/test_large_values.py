"""Values above the limit of a record: through a true sidecar to the pod protocol in memory, and back."""

import asyncio
import json
import textwrap
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fakes.podapi import FakeApi
from tests.unit.sdk.conftest import Pod, curl

LIMITS = {"max_record_bytes": 10_000, "max_result_bytes": 10_000, "max_object_bytes": 32 * 2**20}
TASK = """
from asyncio import gather
from milepost import Context, task

@task
async def main(ctx: Context):
    made = await ctx.step("make", lambda: ["é" * 100] * 1000)
    history, same = await gather(ctx.restore("history", []), ctx.restore("history", []))
    assert history == same
    for n in range(len(history), 4):
        history.append({"turn": n, "text": f"{n}" * 5000})
        await ctx.checkpoint("history", history)
        if n == 2 and ctx.run.attempt == 1:
            raise RuntimeError("in the middle")
    return [made, history]
"""


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(FakeApi(start=dict(LIMITS)).serving())
        yield Pod(api, tmp_path, stack)


def task(pod: Pod, source: str) -> None:
    (pod.home / "flow.py").write_text(textwrap.dedent(source))
    pod.api.start["entrypoint"] = "flow:main"


async def test_a_run_goes_on_from_large_values(pod: Pod) -> None:
    task(pod, TASK)
    assert await pod.run() == 70, pod.log.read_text()
    api = pod.api
    assert [(r.kind, r.key, bool(r.object_bytes)) for r in api.records] == [
        ("step", "make", True), ("checkpoint", "history", False), ("checkpoint", "history", True),
        ("checkpoint", "history", True),
    ]  # fmt: skip
    api.next_attempt()
    home = pod.home / "two"
    home.mkdir()
    second = Pod(api, home, pod._stack)
    second.env["PYTHONPATH"] = str(pod.home)
    assert await second.run() == 0, second.log.read_text()
    assert [r.key for r in api.records[4:]] == ["history"]
    made, history = json.loads(api.large_results[0])
    assert made == ["é" * 100] * 1000
    assert [turn["turn"] for turn in history] == [0, 1, 2, 3]
    assert api.settlements[-1]["result_object"] == "1"
    assert api.settlements[-1]["result"] is None


async def test_what_can_not_be_kept_now_is_sent_again_and_burns_nothing(pod: Pod) -> None:
    task(pod, """
    from milepost import Context, task
    calls = []

    @task
    async def main(ctx: Context):
        return len(await ctx.step("make", lambda: calls.append(1) or "x" * 100_000)) + len(calls)
    """)  # fmt: skip
    pod.api.faults["/objects"].extend([503, "drop-before", "drop-after", 503])
    assert await pod.run() == 0, pod.log.read_text()
    assert [r.key for r in pod.api.records] == ["make"]
    assert json.loads(pod.api.settlements[-1]["result"]) == 100_001, "the step ran once"
    assert pod.api.seen.count("/objects") >= 4


async def test_a_storage_that_refuses_is_an_error_that_names_the_setting(pod: Pod) -> None:
    task(pod, """
    from milepost import Context, ObjectStorageError, task

    @task
    async def main(ctx: Context):
        try:
            await ctx.step("make", lambda: "x" * 100_000)
        except ObjectStorageError as error:
            return str(error)
    """)  # fmt: skip
    pod.api.refuses_objects = "the object storage refuses us: look at objectStorage.bucket"
    assert await pod.run() == 0, pod.log.read_text()
    assert json.loads(pod.api.settlements[-1]["result"]) == pod.api.refuses_objects


async def test_the_local_protocol_takes_and_gives_large_values(pod: Pod) -> None:
    await pod.start_sidecar()
    client = await pod.connected()
    await curl(client, "GET", "/v1/attempt")
    text = json.dumps({"rows": [["é", n, n / 7] for n in range(40_000)]}, ensure_ascii=False).encode()
    headers = [("Milepost-Write-Id", "w1"), ("Milepost-Types", '"t"')]
    for _ in range(2):
        assert (await curl(client, "PUT", "/v1/steps/big", text, headers)).json() == {"seq": 1}
    got = await curl(client, "GET", "/v1/steps/big")
    assert (got.body, got.headers["milepost-types"], got.headers["milepost-seq"]) == (text, '"t"', "1")
    lines = (await curl(client, "GET", "/v1/records?after=0")).body.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"seq": 1, "kind": "step", "key": "big", "types": '"t"', "fingerprint": None, "attempt": 1, "failed": False,
         "object_bytes": len(text)},
    ]  # fmt: skip
    again = await curl(client, "PUT", "/v1/steps/big", text)
    assert (again.status, again.problem()["code"]) == (409, "step-exists")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'["' + b"x" * 50_000 + b'", NaN]', 422, "not-finite"),
        (b'["' + b"x" * 50_000, 422, "not-json"),
        (b'["' + b"x" * (32 * 2**20) + b'"]', 413, "body-too-large"),
    ],
)
async def test_a_large_value_that_can_not_be_kept_leaves_nothing(pod: Pod, body: bytes, status: int, code: str) -> None:
    await pod.start_sidecar()
    client = await pod.connected()
    await curl(client, "GET", "/v1/attempt")
    for path in ("/v1/checkpoints/big", "/v1/result"):
        refused = await curl(client, "PUT", path, body)
        assert (refused.status, refused.problem()["code"]) == (status, code)
    assert (await curl(client, "GET", "/v1/healthz")).json() == {"phase": "running"}
    assert pod.api.records == []
    assert pod.api.large_results == []


async def test_without_object_storage_the_error_says_what_to_change(pod: Pod) -> None:
    pod.api.start["max_object_bytes"] = 0
    task(pod, """
    from milepost import Context, RecordTooLargeError, task

    @task
    async def main(ctx: Context):
        try:
            await ctx.checkpoint("state", {"small": 1, "rows": ["x" * 9000, "y" * 2000]})
        except RecordTooLargeError as error:
            return [error.path, error.limit, str(error)]
    """)  # fmt: skip
    assert await pod.run() == 0, pod.log.read_text()
    path, limit, message = json.loads(pod.api.settlements[-1]["result"])
    assert (path, limit) == ("$.rows[0]", 10_000)
    assert "objectStorage.bucket" in message


async def test_the_sidecar_stays_small_whatever_passes(pod: Pod) -> None:
    process = await pod.start_sidecar()
    clients = [await pod.connected() for _ in range(4)]
    await curl(clients[0], "GET", "/v1/attempt")
    text = json.dumps(["x" * 1000] * 16_000).encode()
    await asyncio.gather(*(curl(c, "PUT", f"/v1/steps/s{n}", text) for n, c in enumerate(clients)))
    for n, client in enumerate(clients):
        assert (await curl(client, "GET", f"/v1/steps/s{n}")).body == text
    status = Path(f"/proc/{process.pid}/status").read_text()  # noqa: ASYNC240
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 30_720, f"{peak} kB at the most, after four values of {len(text)} bytes"
