"""Values at size: what grows is kept as deltas that plain SQL reads whole, and a run's records have limits."""

import json
import re
from binascii import b2a_base64
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st

from milepost.net.messages import unique_id
from milepost.sidecar.bases import Bases
from milepost.wire.delta import MAX_DEPTH
from milepost.wire.pod import RecordsRequest, RecordWrite
from milepost_operator.adapters.postgres.podstore import PAGE_BYTES, PAGE_RECORDS
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import DamagedError, MilepostError, RunLimitError
from milepost_operator.domain.runs import Ending
from tests.integration.engine import Pod, apply_task, lose, next_pod, told, trigger

PARTS = [
    None,
    True,
    -7,
    1.50,
    'é"\n',
    "",
    [],
    {},
    [1, {"ü": "x" * 40}],
    {"role": "user", "content": "it is 21 °C\n" * 9},
]


def text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass
class Writer:
    """A sidecar's way of writing, on a store. `full`: what a store without deltas would hold, by seq."""

    pod: Pod
    bases: Bases = field(default_factory=Bases)
    full: dict[int, tuple[str, str]] = field(default_factory=dict)
    deltas: int = 0

    async def write(self, *values: tuple[str, str], kind: str = "checkpoint") -> list[int]:
        """One request with these keys and values."""
        whole = [
            RecordWrite(f"{len(self.full) + n}/{self.pod.fence.attempt}", kind, k, v) for n, (k, v) in enumerate(values)
        ]  # type: ignore[arg-type]
        sent = [self.bases.shortened(write) for write in whole]
        self.deltas += sum(one.delta is not None for one in sent)
        (answer,) = await self.pod.store.append([(self.pod.session, RecordsRequest(self.pod.fence, sent))])
        seqs = told(answer)
        for write, went, seq in zip(whole, sent, seqs, strict=True):
            self.bases.committed(write, went, seq, self.pod.start.last_seq)
            self.full[seq] = write.key, write.value
        return seqs


async def read(pod: Pod, after: int = 0, *, newest: bool = False) -> dict[int, tuple[str, str]]:
    return {r.seq: (r.key, r.value) async for r in pod.store.records(pod.fence, after, newest=newest)}


async def viewed(store: PostgresStore, run_id: str) -> dict[int, tuple[str, str]]:
    rows = await store._db.fetch(
        "select seq, key, value::text as value from record_values where run_id = $1::text::uuid order by seq", run_id
    )
    return {row["seq"]: (row["key"], row["value"]) for row in rows}


async def first_pod(store: PostgresStore, **changes: object) -> Pod:
    await apply_task(store, **changes)
    await trigger(store)
    return await next_pod(store)


def changed(value: object, where: int, part: object, how: str) -> object:
    """Somewhere in it, something is appended, replaced or gone."""
    if isinstance(value, list) and value:
        at = where % (len(value) + 1)
        if how == "append" or at == len(value):
            return [*value, part]
        if how == "drop":
            return value[1:]
        return [*value[:at], changed(value[at], where // 2, part, how), *value[at + 1 :]]
    if isinstance(value, dict) and value:
        keys = list(value)
        key = keys[where % len(keys)]
        if how == "drop":
            return {k: v for k, v in value.items() if k != key}
        return value | {f"{key}+" if how == "append" else key: changed(value[key], where // 2, part, how)}
    if isinstance(value, str) and how == "append" and isinstance(part, str):
        return value + part
    return part


CHANGES = st.lists(
    st.tuples(
        st.sampled_from("ab"), st.integers(0, 40), st.sampled_from(PARTS),
        st.sampled_from(["append", "replace", "drop", "repeat"]),
    ),
    min_size=5, max_size=25,
)  # fmt: skip


@options(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True)
@given(changes=CHANGES, ascii_only=st.booleans())
async def test_the_delta_store_gives_what_full_copies_give(
    store: PostgresStore, changes: list[tuple[str, int, object, str]], ascii_only: bool
) -> None:
    pod = await first_pod(store)
    try:
        await same_as_full(pod, changes, ascii_only=ascii_only)
    finally:
        await pod.succeed()


async def same_as_full(pod: Pod, changes: list[tuple[str, int, object, str]], *, ascii_only: bool) -> None:
    writer = Writer(pod)
    values: dict[str, object] = {key: {"é": ["x" * 150, {"n": [1.0, 'ü\n"' * 30]}], "k": {}} for key in "ab"}
    for key, where, part, how in changes:
        values[key] = values[key] if how == "repeat" else changed(values[key], where, part, how)
        await writer.write((key, json.dumps(values[key], ensure_ascii=ascii_only)))
    assert await read(pod) == writer.full
    assert await viewed(pod.store, pod.fence.run_id) == writer.full
    for seq in list(writer.full)[::3]:
        assert await read(pod, seq) == {s: v for s, v in writer.full.items() if s > seq}
    newest = dict(writer.full.values())
    assert dict((await read(pod, newest=True)).values()) == newest
    for key, value in newest.items():
        found = await pod.store.newest(pod.fence, "checkpoint", key)
        assert found is not None
        assert found.value == value


def history(size: int, step: int = 500) -> str:
    """A history that grows by `step` bytes, of text that hardly compresses; about `size` bytes."""
    words = Random(7)
    items = [{"role": "user", "content": words.randbytes((step - 31) * 3 // 4)} for _ in range(size // step)]
    return text([item | {"content": b2a_base64(item["content"], newline=False).decode()} for item in items])


async def test_each_version_of_a_history_is_read_whole_and_little_is_kept(store: PostgresStore) -> None:
    pod = await first_pod(store)
    writer = Writer(pod)
    for n in range(1, 141):
        await writer.write(("history", history(n * 500)))
    assert writer.deltas >= 140 - 3
    assert await read(pod) == await viewed(store, pod.fence.run_id) == writer.full
    (row,) = await store._db.fetch(
        "select max(depth) as deep, sum(kept_bytes) as kept, sum(bytes) as raw from record_values"
    )
    assert (row["deep"], row["raw"]) == (MAX_DEPTH, sum(len(value) for _, value in writer.full.values()))
    assert row["kept"] < 70_000 * 2.2


async def test_calls_of_one_step_are_kept_as_deltas_and_served_in_order(store: PostgresStore) -> None:
    pod = await first_pod(store)
    writer = Writer(pod)
    for n in range(1, 31):
        await writer.write((f"turn#{n}" if n > 1 else "turn", history(n * 500)), (f"other/{n}", "1"), kind="step")
    assert writer.deltas >= 28
    assert await read(pod) == await viewed(store, pod.fence.run_id) == writer.full
    assert await read(pod, 40) == {seq: told for seq, told in writer.full.items() if seq > 40}
    found = await store.newest(pod.fence, "step", "turn#17")
    assert (found.value, found.depth > 0) == (history(17 * 500), True) if found else None


async def test_one_batch_takes_deltas_of_many_runs(store: PostgresStore) -> None:
    await apply_task(store)
    pods = [await _another(store) for _ in range(3)]
    writers = [Writer(pod) for pod in pods]
    for n in (4, 5, 6):
        whole = [RecordWrite(f"w{n}", "checkpoint", "h", history(n * 500)) for _ in pods]
        sent = [writer.bases.shortened(write) for writer, write in zip(writers, whole, strict=True)]
        answers = await store.append(
            [(pod.session, RecordsRequest(pod.fence, [one])) for pod, one in zip(pods, sent, strict=True)]
        )
        assert answers == [[n - 3]] * 3
        for writer, write, went in zip(writers, whole, sent, strict=True):
            writer.bases.committed(write, went, n - 3, 0)
            assert (went.delta is not None) == (n > 4)
    for pod in pods:
        assert [value for _, value in (await read(pod)).values()] == [history(n * 500) for n in (4, 5, 6)]


async def _another(store: PostgresStore) -> Pod:
    await trigger(store)
    return await next_pod(store)


def delta(base: int, **changes: object) -> RecordWrite:
    """The third item of a list, on that record."""
    fields = {"delta": '[[4,0,",3"]]', "base": base, "size": 7, "write_id": unique_id()} | changes
    return RecordWrite(kind="checkpoint", key="c", **fields)  # type: ignore[arg-type]


async def test_a_delta_on_what_is_not_there_is_refused_and_nothing_else_is(store: PostgresStore) -> None:
    pod = await first_pod(store)
    assert await pod.write("c", "[1,2]", kind="checkpoint") == [1]

    async def send(*writes: RecordWrite) -> object:
        (answer,) = await store.append([(pod.session, RecordsRequest(pod.fence, list(writes)))])
        return answer

    refused = await send(delta(7))
    assert (isinstance(refused, MilepostError) and refused.code) == "unknown-base"
    plain = RecordWrite("w", "checkpoint", "d", "1")
    refused = await send(delta(9), plain)
    assert (isinstance(refused, MilepostError) and refused.code) == "unknown-base"
    assert await send(plain) == [2], "it was taken, and is told again"
    again = delta(1)
    assert await send(again) == [3]
    assert await send(again) == [3], "sent again"
    assert await read(pod) == {1: ("c", "[1,2]"), 2: ("d", "1"), 3: ("c", "[1,2,3]")}
    await store._db.fetch("update records set depth = 127 where seq = 3")
    refused = await send(delta(3, size=9))
    assert (isinstance(refused, MilepostError) and refused.code) == "unknown-base"


async def test_what_does_not_give_what_was_written_is_told_and_harms_no_other_read(store: PostgresStore) -> None:
    """A sidecar that lies spoils its own run's value, and no query of somebody else."""
    pod = await first_pod(store)
    await pod.write("c", "[1,2]", kind="checkpoint")
    lies = [delta(1, size=8), delta(1, delta='[[0,1,"{"]]', size=5), delta(1, delta='[[90,9,"]"]]', size=6)]
    for lie in lies:
        told((await store.append([(pod.session, RecordsRequest(pod.fence, [lie]))]))[0])
    with pytest.raises(DamagedError, match=r"record 4 \('c'\) of run .* 6 bytes|record 2 \('c'\)"):
        await read(pod)
    assert await viewed(store, pod.fence.run_id) == {1: ("c", "[1,2]"), 2: ("c", None), 3: ("c", None), 4: ("c", None)}


async def test_another_attempt_and_a_retry_read_what_deltas_made(store: PostgresStore) -> None:
    pod = await first_pod(store)
    writer = Writer(pod)
    for n in range(1, 6):
        await writer.write(("h", history(n * 500)))
    await pod.fail(retryable=False)
    copied = await store.retry_run(UUID(pod.fence.run_id), "somebody")
    again = await next_pod(store)
    assert again.fence.run_id == str(copied.run_id)
    assert await read(again) == await viewed(store, again.fence.run_id) == writer.full
    seeded = Writer(again, full=dict(writer.full))
    async for record in store.records(again.fence, 0, newest=True):
        seeded.bases.read(asdict(record))
    await seeded.write(("h", history(6 * 500)))
    assert seeded.deltas == 1
    await store._db.fetch("delete from records where run_id = $1::text::uuid", pod.fence.run_id)
    pruned = "update run_heads set records = 0, records_pruned_at = now() where run_id = $1::text::uuid"
    await store._db.fetch(pruned, pod.fence.run_id)
    assert await read(again) == await viewed(store, again.fence.run_id) == seeded.full


@pytest.mark.parametrize(
    ("limits", "limit", "key"),
    [({"max_count": 4}, "records.maxCount", "page"), ({"max_bytes": 6000}, "records.maxBytes", "big")],
)
async def test_more_than_the_task_allows_is_refused_with_what_is_biggest(
    store: PostgresStore, limits: dict[str, int], limit: str, key: str
) -> None:
    pod = await first_pod(store, record_limits=limits)
    head = await store._db.fetchrow("select max_records, max_records_bytes from run_heads")
    assert tuple(head or ()) == (limits.get("max_count", 20_000), limits.get("max_bytes", 268_435_456))
    for name in ("page", "page#2", "page#3"):
        assert isinstance(await pod.write(name, '"x"'), list)
    assert await pod.write("big", f'"{"x" * 4997}"') == [4]
    last = RecordWrite("w1", "step", "last", f'"{"x" * 1200}"')
    for writes in ([last], [last, RecordWrite("w2", "checkpoint", "c", f'"{"x" * 1100}"')]):  # alone, and with another
        (refused,) = await store.append([(pod.session, RecordsRequest(pod.fence, writes))])
        assert isinstance(refused, RunLimitError), refused
        assert (refused.limit, refused.most, refused.key) == (limit, next(iter(limits.values())), key)
        assert f"({limit})" in str(refused)
    assert await pod.write("page#2", '"x"') != [2], "a recorded step is no matter of limits"
    assert [seq for seq, _ in (await read(pod)).items()] == [1, 2, 3, 4]
    await apply_task(store, generation=2, record_limits={"max_count": 6, "max_bytes": 20_000})
    await lose(store, pod.session.pod_id, Ending("PodLost", "gone", counted=False, infra=True))
    again = await next_pod(store)
    assert await again.write("last", "1") == [5], "the next attempt has what the Task says now"


async def test_a_delta_counts_as_what_is_kept_of_it(store: PostgresStore) -> None:
    pod = await first_pod(store, record_limits={"max_bytes": 12_000})
    writer = Writer(pod)
    for n in range(10, 20):
        await writer.write(("h", history(n * 500)))
    (row,) = await store._db.fetch("select h.records_bytes, sum(v.kept_bytes) as kept from run_heads h "
                                   "join record_values v using (run_id) group by h.run_id")  # fmt: skip
    assert row["records_bytes"] == row["kept"] < 12_000


async def test_the_sql_of_the_docs_reads_whole_values(store: PostgresStore) -> None:
    pod = await first_pod(store)
    writer = Writer(pod)
    turns = [{"turn": n, "answer": f"answer {n} " * 20} for n in range(5)]
    for n in range(1, 6):
        await writer.write(("history", text(turns[:n])))
    page = (Path(__file__).parents[2] / "docs" / "values.md").read_text()
    found = [
        await store._db.fetch(statement.replace("01a1fe3f-4cc8-7000-8000-000000000000", pod.fence.run_id))
        for block in re.findall(r"^```sql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        for statement in block.strip().split(";\n\n")
    ]
    assert [row["value"] for row in found[0]] == [text(turns[:n]) for n in range(1, 6)]
    assert [tuple(row) for row in found[1]] == [(turns[4]["answer"],)]
    (one,) = await store._db.fetch("select milepost.record_value($1::text::uuid, 3) as it", pod.fence.run_id)
    assert one["it"] == text(turns[:3])


@pytest.mark.parametrize(
    ("count", "size"),
    [(PAGE_RECORDS - 1, 8), (PAGE_RECORDS, 8), (PAGE_RECORDS + 1, 8), (5, PAGE_BYTES // 2), (3, PAGE_BYTES)],
)
async def test_every_record_is_read_whatever_fills_a_page(store: PostgresStore, count: int, size: int) -> None:
    pod = await first_pod(store)
    await store._db.fetch(
        "insert into records (run_id, seq, kind, key, attempt, write_id, value, bytes)"
        " select $1::text::uuid, n, 'step', n::text, 1, n::text, to_json(repeat('x', $3::int - 2)), $3::int"
        " from generate_series(1, $2::int) n",
        pod.fence.run_id,
        count,
        size,
    )
    kept = "update run_heads set records = $1::int, last_seq = $1::int, records_bytes = $1::int * $2::bigint"
    await store._db.fetch(kept, count, size)
    assert list(await read(pod)) == list(range(1, count + 1))
    assert list(await read(pod, count - 1)) == [count]


async def test_what_a_newer_version_replaced_is_passed_over_by_index(store: PostgresStore) -> None:
    pod = await first_pod(store)
    await store._db.fetch(
        "insert into records (run_id, seq, kind, key, attempt, write_id, value, bytes)"
        " select $1::text::uuid, n, 'checkpoint', 'c', 1, n::text, to_json(n), 4 from generate_series(1, 3000) n",
        pod.fence.run_id,
    )
    await store._db.fetch("update run_heads set records = 3000, last_seq = 3000")
    assert list(await read(pod, newest=True)) == [3000]
    query = f"explain (analyze, buffers, format json) {Q['records_page']}"
    ((plan,),) = await store._db.fetch(query, UUID(pod.fence.run_id), 0, True, PAGE_RECORDS, PAGE_BYTES)
    nodes = [json.loads(plan)[0]["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
    assert "Seq Scan" not in {node["Node Type"] for node in nodes}
    assert nodes[0]["Shared Hit Blocks"] < 3000 * 6
