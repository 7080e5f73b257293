"""Values above the limit of a record, on a real Postgres and S3 server: nothing is lost, nothing is left behind."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st

from milepost.client import AsyncMilepost, Milepost, Run
from milepost.wire.pod import RecordWrite
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.adapters.s3.bucket import S3Bucket
from milepost_operator.adapters.s3.config import bucket_config
from milepost_operator.api.objects import Values
from milepost_operator.api.server import Listener, listening_socket, open_bucket
from milepost_operator.api.storage import StorageDuties
from milepost_operator.domain.errors import DamagedError, NotFoundError, StorageError, UnavailableError
from milepost_operator.domain.objects import Upload
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.objects import Bucket
from milepost_operator.settings import Settings
from tests.integration.engine import NS, Pod, apply_task, eventually, next_pod, trigger
from tests.integration.http_api import app_of
from tests.integration.test_pod_processes import identify, pod_of, run_pod
from tests.objectstorage import BUCKET, ObjectStorage

LIMIT = 4096
MOST = 4 * 2**20


@pytest.fixture(scope="module")
def object_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStorage]:
    server = ObjectStorage(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def storage(object_storage: ObjectStorage) -> Iterator[ObjectStorage]:
    """It runs, and has nothing of another test."""
    yield object_storage
    if not object_storage.running:
        object_storage.start()
    object_storage.empty()


@dataclass
class Rig:
    """The store, the bucket, and the duties of an api."""

    store: PostgresStore
    bucket: Bucket
    storage: ObjectStorage
    values: Values
    duties: StorageDuties
    metrics: Metrics = field(default_factory=Metrics)

    async def put(self, pod: Pod, write: RecordWrite, text: str) -> int:
        """What the api does with a large value."""
        begun = await self.store.begin_object(pod.session, pod.fence, len(text.encode()), write)
        if isinstance(begun, int):
            return begun
        digest = await self.values.store(begun, pieces(text))
        return await self.store.append_object(pod.session, pod.fence, write, begun, digest)

    async def read(self, pod: Pod, seq: int) -> str:
        found = await self.store.object_of_record(pod.fence, seq)
        assert found is not None
        return b"".join([piece async for piece in self.values.whole(await self.bucket.get(found.key), found)]).decode()

    async def sweep(self) -> list[str]:
        """Delete what nothing refers to; the keys that are left."""
        while await self.duties.sweep():
            pass
        return self.storage.objects()

    async def all_due(self) -> None:
        """Let so much time pass that nobody writes any of the objects that there are."""
        await self.store._db.fetch("update objects set due_at = due_at - interval '2 hours'")


async def pieces(text: str, size: int = 60_000) -> AsyncIterator[bytes]:
    data = text.encode()
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.fixture
def large(settings: Settings, storage: ObjectStorage) -> Settings:
    return storage.settings(settings, max_record_bytes=LIMIT, max_result_bytes=LIMIT, max_object_bytes=MOST)


@pytest.fixture
async def rig(large: Settings, storage: ObjectStorage) -> AsyncIterator[Rig]:
    async with PostgresStore.open(large) as store, AsyncExitStack() as stack:
        bucket = await open_bucket(large, stack)
        assert bucket is not None
        metrics = Metrics()
        values = Values(bucket, limit=MOST, metrics=metrics)
        duties = StorageDuties(store, bucket, metrics, name=BUCKET, prefix="milepost/")
        yield Rig(store, bucket, storage, values, duties, metrics)
        assert {k: v for k, v in (await store.violations()).items() if v} == {}


async def settled_files(storage: ObjectStorage) -> None:
    """The server is done with uploads that broke off: it answers requests of one key in their order."""
    before: list[str] | None = None

    async def same() -> bool:
        nonlocal before
        was, before = before, storage.objects()
        return was == before and len(before) == 2

    with contextlib.suppress(TimeoutError):  # another server keeps nothing of them
        await eventually(same, 3)


async def first_pod(rig: Rig, **changes: object) -> Pod:
    await apply_task(rig.store, **changes)
    await trigger(rig.store)
    return await next_pod(rig.store)


# -- the bucket


async def test_what_is_stored_comes_back_and_goes(rig: Rig) -> None:
    text = json.dumps(["é" * 1000] * 500, ensure_ascii=False)
    await rig.bucket.put("milepost/a b+ü/1", len(text.encode()), pieces(text))
    got = b"".join([piece async for piece in await rig.bucket.get("milepost/a b+ü/1")])
    assert got.decode() == text
    for _ in range(2):
        await rig.bucket.delete("milepost/a b+ü/1")
    with pytest.raises(NotFoundError):
        await rig.bucket.get("milepost/a b+ü/1")


async def test_an_object_that_broke_off_is_nobody_s_and_goes(rig: Rig) -> None:
    """A server may well keep what came of it: no row says that it is whole."""
    pod = await first_pod(rig)

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 70_000
        raise NotFoundError("the task is gone")

    for record in (RecordWrite("w", "step", "big"), None):
        begun = await rig.store.begin_object(pod.session, pod.fence, 200_000, record)
        assert isinstance(begun, Upload)
        with pytest.raises(NotFoundError, match="the task is gone"):
            await rig.values.store(begun, broken())
        await rig.store.abandon_object(begun.object_id)
    await rig.sweep()
    (left,) = await rig.store._db.fetch(
        "select count(*) as n, max(due_at) < now() + interval '70 s' as soon from objects"
    )
    assert (left["n"], left["soon"]) == (2, True), "the storage may still be at work on them"
    await settled_files(rig.storage)
    await rig.all_due()
    assert await rig.sweep() == []
    assert await rig.store._db.fetch("select from objects") == []
    await pod.succeed()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"object_storage_bucket": "another"}, "objectStorage.bucket"),
        ({"object_storage_key_id_file": "wrong"}, "access-key-id"),
        ({"object_storage_secret_key_file": "wrong"}, "secret-access-key"),
        ({"object_storage_secret_key_file": "absent"}, "objectStorage.existingSecret"),
        ({"object_storage_region": "eu-central-7"}, "objectStorage.region"),
    ],
)
async def test_a_wrong_setting_is_named(
    large: Settings, rig: Rig, tmp_path: Path, changes: dict[str, str], named: str
) -> None:
    (tmp_path / "wrong").write_text("wrong-key-wrong-key")
    paths = {name: tmp_path / value if name.endswith("file") else value for name, value in changes.items()}
    config = bucket_config(large.model_copy(update=paths))
    assert config is not None
    async with S3Bucket(config) as bucket:
        with pytest.raises(StorageError, match=named) as refused:
            await bucket.put("milepost/x", 3, pieces('"x"'))
        duties = StorageDuties(rig.store, bucket, rig.metrics, name=BUCKET, prefix="milepost/")
        await duties.check()
    assert refused.value.code == "storage-refused"
    assert f'milepost_object_storage_up{{bucket="{BUCKET}"}} 0.0' in rig.metrics.exposition().decode()


async def test_a_storage_that_is_down_is_an_outage(rig: Rig) -> None:
    assert not await rig.duties.check()
    rig.storage.kill()
    for call in (rig.bucket.put("milepost/x", 3, pieces('"x"')), rig.bucket.get("milepost/x"), rig.bucket.delete("k")):
        with pytest.raises(UnavailableError):
            await call
    await rig.duties.check()
    rig.storage.start()
    await rig.bucket.put("milepost/x", 3, pieces('"x"'))


async def test_a_value_that_was_damaged_is_never_given_whole(rig: Rig) -> None:
    pod = await first_pod(rig)
    text = json.dumps("x" * 200_000)
    seq = await rig.put(pod, RecordWrite("w", "step", "big"), text)
    (key,) = rig.storage.objects()
    (rig.storage.bucket / key).write_text(text.replace("x", "y"))
    with pytest.raises(DamagedError):
        await rig.read(pod, seq)
    await pod.succeed()


# -- rows and objects


async def test_sql_says_where_a_value_is(rig: Rig) -> None:
    pod = await first_pod(rig)
    text = json.dumps(["é" * 5000], ensure_ascii=False)
    await pod.write("small", "1")
    seq = await rig.put(pod, RecordWrite("w", "step", "big"), text)
    query = "select value::text, bytes, kept_bytes, object_key, object_sha256 from record_values where seq = $1"
    (row,) = await rig.store._db.fetch(query, seq)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert tuple(row) == (None, len(text.encode()), len(text.encode()), rig.storage.objects()[0], digest)
    (small,) = await rig.store._db.fetch(query, seq - 1)
    assert (small["value"], small["object_key"]) == ("1", None)
    (head,) = await rig.store._db.fetch("select records, records_bytes from run_heads")
    assert (head["records"], head["records_bytes"]) == (2, 1 + len(text.encode())), "it counts against the run's limit"
    await pod.succeed()


async def test_an_object_whose_record_never_came_is_collected(rig: Rig) -> None:
    pod = await first_pod(rig)
    write, text = RecordWrite("w", "step", "big"), json.dumps("x" * 9000)
    begun = await rig.store.begin_object(pod.session, pod.fence, len(text), write)
    assert isinstance(begun, Upload)
    digest = await rig.values.store(begun, pieces(text))  # and here the api is killed
    assert await rig.sweep() == [begun.key], "it may still come"
    await rig.all_due()
    assert await rig.sweep() == []
    with pytest.raises(UnavailableError):  # who was only slow has to store it again
        await rig.store.append_object(pod.session, pod.fence, write, begun, digest)
    assert await rig.put(pod, write, text) == 1
    await rig.all_due()
    assert len(await rig.sweep()) == 1
    assert await rig.read(pod, 1) == text
    await pod.succeed()


async def test_one_write_twice_at_once_is_one_record_and_leaves_one_object(rig: Rig) -> None:
    pod = await first_pod(rig)
    text = json.dumps("x" * 300_000)
    for kind in ("step", "checkpoint"):
        write = RecordWrite(f"w-{kind}", kind, "big")  # type: ignore[arg-type]
        first, *others = await asyncio.gather(*(rig.put(pod, write, text) for _ in range(4)))
        assert others == [first] * 3
    await rig.all_due()
    assert len(await rig.sweep()) == 2
    (count,) = await rig.store._db.fetch("select count(*) as n from objects")
    assert count["n"] == 2
    await pod.succeed()


async def test_a_sweep_takes_no_object_that_is_being_referred_to(rig: Rig) -> None:
    pod = await first_pod(rig)
    text = json.dumps("x" * 5000)
    for turn in range(15):
        write = RecordWrite(f"w{turn}", "checkpoint", "state")
        begun = await rig.store.begin_object(pod.session, pod.fence, len(text), write)
        assert isinstance(begun, Upload)
        digest = await rig.values.store(begun, pieces(text))
        await rig.all_due()
        committing = rig.store.append_object(pod.session, pod.fence, write, begun, digest)
        _, committed = await asyncio.gather(rig.duties.sweep(), committing, return_exceptions=True)
        if isinstance(committed, int):
            assert await rig.read(pod, committed) == text
        else:
            assert isinstance(committed, UnavailableError)
            assert begun.key not in rig.storage.objects()
    await pod.succeed()


async def test_objects_go_with_the_last_run_that_has_them(rig: Rig) -> None:
    await apply_task(rig.store, retention={"success_seconds": 3000, "records_success_seconds": 100})
    run = await trigger(rig.store)
    pod = await next_pod(rig.store)
    texts = {key: json.dumps(key * 5000) for key in ("a", "b")}
    for key, text in texts.items():
        await rig.put(pod, RecordWrite(key, "step", key), text)
    result = await rig.store.begin_object(pod.session, pod.fence, len(texts["a"]), None)
    assert isinstance(result, Upload)
    await rig.store.object_stored(result.object_id, await rig.values.store(result, pieces(texts["a"])))
    await pod.fail("fatal")
    copy = await rig.store.retry_run(run.run_id, "me")
    again = await next_pod(rig.store)
    assert again.start.records == 2
    assert [await rig.read(again, seq) for seq in (1, 2)] == list(texts.values())
    await rig.all_due()
    assert len(await rig.sweep()) == 2, "the result of the failed attempt is nobody's"

    ended = "update runs set finished_at = finished_at - interval '2 hours', dead_lettered = false where run_id = $1"
    await rig.store._db.fetch("update tasks set retention = '{\"failure_seconds\": 100}'")
    await rig.store._db.fetch(ended, run.run_id)
    while await rig.store.prune(500):
        pass
    with pytest.raises(NotFoundError):
        await rig.store.get_run(NS, str(run.run_id))
    assert len(await rig.sweep()) == 2, "the copy has them"
    assert await rig.read(again, 1) == texts["a"]
    await again.succeed()
    await rig.store._db.fetch("update tasks set retention = '{\"records_success_seconds\": 100}'")
    await rig.store._db.fetch(ended, copy.run_id)
    while await rig.store.prune(500):
        pass
    assert await rig.store._db.fetch("select from records") == []
    assert len(rig.storage.objects()) == 2, "the rows go first"
    rig.storage.kill()
    assert not await rig.duties.sweep()
    rig.storage.start()
    assert len(await rig.sweep()) == 2, "they are left for a while after it was down"
    await rig.all_due()
    assert await rig.sweep() == []
    assert await rig.store._db.fetch("select from objects") == []


async def test_a_run_s_limit_counts_what_is_in_object_storage(rig: Rig) -> None:
    pod = await first_pod(rig, record_limits={"max_bytes": 100_000})
    await rig.put(pod, RecordWrite("a", "checkpoint", "state"), json.dumps("x" * 60_000))
    with pytest.raises(Exception, match=r"records\.maxBytes.*'state'"):
        await rig.put(pod, RecordWrite("b", "checkpoint", "state"), json.dumps("x" * 60_000))
    assert len(rig.storage.objects()) == 1, "nothing was stored for it"
    await pod.succeed()


@options(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True)
@given(sizes=st.lists(st.integers(1, 3 * LIMIT), min_size=3, max_size=12), ascii_only=st.booleans())
async def test_values_that_grow_and_shrink_across_the_limit_are_what_full_copies_are(
    rig: Rig, sizes: list[int], ascii_only: bool
) -> None:
    pod = await first_pod(rig)
    full: dict[int, str] = {}
    for number, size in enumerate(sizes):
        text = json.dumps(["é" * (size // 6), number], ensure_ascii=ascii_only)
        if len(text.encode()) > LIMIT:
            seq = await rig.put(pod, RecordWrite(f"w{number}", "checkpoint", "state"), text)
        else:
            answer = await pod.write("state", text, "checkpoint", f"w{number}")
            assert isinstance(answer, list)
            (seq,) = answer
        full[seq] = text
    kept = {r.seq: r async for r in pod.store.records(pod.fence, 0)}
    found = {seq: await rig.read(pod, seq) if r.object_bytes else r.value for seq, r in kept.items()}
    assert found == full
    assert {seq: r.object_bytes for seq, r in kept.items() if r.object_bytes} == {
        seq: len(text.encode()) for seq, text in full.items() if len(text.encode()) > LIMIT
    }
    await pod.succeed()


# -- the whole path: task, runner, sidecar, api, Postgres and S3

SOURCE = """
import os
from milepost import Context, task

@task
async def main(ctx: Context, crash: bool = True):
    made = await ctx.step("make", lambda: [os.getpid(), "é" * 3000])
    history = await ctx.restore("history", [])
    for n in range(len(history), 6):
        history.append({"turn": n, "text": f"{n}" * 1500})
        await ctx.checkpoint("history", history)
        if n == 4 and crash and ctx.run.attempt == 1:
            os._exit(9)
    return {"made": made, "turns": [h["turn"] for h in history], "text": [h["text"] for h in history]}
"""


@asynccontextmanager
async def serving(rig: Rig, tmp: Path) -> AsyncIterator[int]:
    tokens = tmp / "tokens"
    tokens.write_text(f"root:*:{'s' * 32}\n")
    app = app_of(rig.store, tokens, identify, bucket=rig.bucket, max_object_bytes=MOST)
    listener, socket = Listener(app, 0), listening_socket(0)
    work = asyncio.ensure_future(listener.serve([socket]))
    yield socket.getsockname()[1]
    listener.should_exit = True
    await work


def plain_get(url: str, run: str) -> Run:
    with Milepost(url, "s" * 32) as client:
        return client.get(run, namespace=NS)


async def test_a_run_resumes_from_large_values_and_its_result_is_read_by_http(rig: Rig, tmp_path: Path) -> None:
    async with serving(rig, tmp_path) as port:
        await apply_task(rig.store, shape={"source": {"inline": SOURCE}})
        created = await trigger(rig.store)
        assert (await run_pod(rig.store, port, tmp_path / "one"))[0] == 70
        code, log = await run_pod(rig.store, port, tmp_path / "two")
        assert code == 0, log
        async with AsyncMilepost(f"http://127.0.0.1:{port}", "s" * 32) as client:
            run = await client.get(str(created.run_id), namespace=NS)
        assert await asyncio.to_thread(plain_get, f"http://127.0.0.1:{port}", run.id) == run
    rows = await rig.store._db.fetch("select key, attempt, object from records order by seq")
    assert [(r["key"], r["attempt"]) for r in rows] == [("make", 1), *[("history", 1)] * 5, ("history", 2)]
    assert [r["object"] is not None for r in rows] == [True, False, False, True, True, True, True]
    shown = await rig.store.get_run(NS, run.id)
    assert (shown.state, shown.result, shown.result_bytes) == ("succeeded", None, run.result_bytes)
    assert isinstance(run.result, dict)
    assert run.result["turns"] == [0, 1, 2, 3, 4, 5]
    assert run.result["made"][1] == "é" * 3000  # type: ignore[index, call-overload]
    await rig.all_due()
    assert len(await rig.sweep()) == 6, "five records and the result"


async def test_a_run_goes_on_through_an_outage_of_the_storage_and_burns_nothing(rig: Rig, tmp_path: Path) -> None:
    async with serving(rig, tmp_path) as port, AsyncExitStack() as stack:
        await apply_task(rig.store, shape={"source": {"inline": SOURCE}})
        created = await trigger(rig.store, input='{"crash": false}')
        rig.storage.kill()
        pod = await stack.enter_async_context(pod_of(rig.store, port, tmp_path / "one"))
        running = asyncio.ensure_future(pod.run())

        async def refused() -> bool:
            (row,) = await rig.store._db.fetch("select count(*) as n from objects")
            return row["n"] >= 2  # it was tried again

        await eventually(refused, 30)
        assert await rig.store._db.fetch("select from records") == []
        rig.storage.start()
        assert await running == 0, pod.log.read_text()
    run = await rig.store.get_run(NS, str(created.run_id))
    assert (run.state, run.attempt, run.attempts_counted) == ("succeeded", 1, 0)
    await rig.all_due()
    assert len(await rig.sweep()) == 6


REFUSED = """
from milepost import Context, ObjectStorageError, task

@task
async def main(ctx: Context):
    try:
        await ctx.step("make", lambda: "x" * 3_000_000)
    except ObjectStorageError as error:
        return str(error)
"""


async def test_a_wrong_key_is_an_error_of_the_step_that_names_it(rig: Rig, large: Settings, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("not-the-secret")
    config = bucket_config(large.model_copy(update={"object_storage_secret_key_file": tmp_path / "wrong"}))
    assert config is not None
    async with S3Bucket(config) as bucket:
        rig.bucket = bucket
        async with serving(rig, tmp_path) as port:
            await apply_task(rig.store, shape={"source": {"inline": REFUSED}})
            created = await trigger(rig.store)
            code, log = await run_pod(rig.store, port, tmp_path / "one")
            assert code == 0, log
    result = (await rig.store.get_run(NS, str(created.run_id))).result
    assert result is not None
    assert "look at objectStorage.existingSecret (secret-access-key)" in result
    assert await rig.store._db.fetch("select from records") == []


async def test_an_api_that_dies_between_object_and_row_costs_one_more_try(rig: Rig, tmp_path: Path) -> None:
    died: list[UUID] = []
    commit = rig.store.append_object

    async def dies(*asked: object) -> int:
        if not died:
            died.append(UUID(int=1))
            raise ConnectionResetError("killed here")
        return await commit(*asked)  # type: ignore[arg-type]

    rig.store.append_object = dies  # type: ignore[assignment, method-assign]
    async with serving(rig, tmp_path) as port:
        await apply_task(rig.store, shape={"source": {"inline": SOURCE}})
        created = await trigger(rig.store, input='{"crash": false}')
        code, log = await run_pod(rig.store, port, tmp_path / "one")
        assert code == 0, log
    assert died
    assert (await rig.store.get_run(NS, str(created.run_id))).attempts_counted == 0
    (count,) = await rig.store._db.fetch("select count(*) as n from objects where due_at is not null")
    assert count["n"] == 1, "the object of the api that died"
    await rig.all_due()
    assert len(await rig.sweep()) == 6
    with contextlib.suppress(AttributeError):
        del rig.store.append_object
