"""Databases of earlier releases are brought to this one, with the runs that wait in them."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from milepost.wire.pod import Fence, SettleRequest
from milepost_operator.adapters.postgres import migrate as module
from milepost_operator.adapters.postgres.migrate import migrate, migrations
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import PodSession
from milepost_operator.settings import Settings
from tests.integration.conftest import _with_database
from tests.integration.engine import NS, next_pod, settled

RELEASED = {
    "0001_spine": "d6c235c73bd139f9922ab46eb266aa427616c2bd7f8b4b3d32bc1b6142a80468",
    "0002_order": "11f867171bd3278380174967efff0fc21cf87ddb3590b21841483c3d25dade89",
    "0003_admission": "56b07766089b8061be991a73be404b1155b63a1f277216f4b0e10bda5eed70f0",
    "0004_triggers": "4ba575ac31d6abdc35b818fb6167c3b6ae97aeb8fabd1aea9628b87872f00307",
    "0005_schedules": "365536dfc089cd335ca98cf0aaf57eedb11dc556367678c37821cd4b04d96196",
    "0006_control": "d33995a44ee196356b84f50f71c5becbc6342c93b40c6f478ed289ccc80b7cdc",
    "0007_lifecycle": "e8286dbb36569027bbdf093eec29047eb236c443e4a2cd6b85336677526bacd1",
    "0008_suspension": "3371515a3a1be2946bcfe14244a32a5b9f6279643b195d0c0cc382c152663157",
    "0009_changed": "53a63de2d6c6f19b27eac9f79ae7034a576c6bdf4378107820194d0407f506ef",
    "0010_schemas": "d33f9088ed973b213fadfc51a7de29c10a2a726e2b38094f8aba941b9a844d6d",
    "0011_backlogs": "4cb905e121ca0062bb9e01dbe3cc15a04cac39be78e2781e7af2842174e68ed4",
    "0012_versions_streams": "0aa5f22e5b86a662802d86e06b1b071e971f04b8b96d0c0f69510bc2a97a713c",
    "0013_hot_writes": "5043e2fd5b52884f80cee0a64ff773ba8486b5fd34d894fd0628e43f08bff05d",
    "0014_values": "c866ce4712726793994f454b55490a502a43fabf0028bde45233a3a59128ef89",
    "0015_warm": "38f24d689bbf6d1a89318e41ed0626070fea6f66662cc23500066f5523f76515",
    "0016_pace": "c1a81841a79b48e3fa2b517a46da03a5ec13fff59215eacd71f8db957c76afd9",
    "0017_failures": "b46343ef5ee9eac80b6a6763170ff9d8e8c776ae94013404f0d35778276a6726",
    "0018_network": "c9ff1f9ef7d2afa82e68ae8bd39f5564bd6dd39a5f73bd46b499d9eabafd57f2",
    "0019_objects": "1dcc7f2ded4adf37c0bea2353fa2eeb959356c8355e1115438a1db09fac8a35a",
    "0020_prewarm": "4f804cab86aa988ab17cd4290333ed317d216b6850ff9e095a6b18e1db5e9966",
}
"""SHA-256 of each. A database that has one with another text refuses the upgrade: what changes is a migration more."""

BEFORE_WARM_PODS = list(RELEASED).index("0014_values") + 1
"""How many migrations that release had, of whose schema the rows below are."""

WAITING = """
insert into queues (cluster, namespace, name, uid, generation) values ('default', $1, 'default', 'u', 1);
insert into tasks (cluster, namespace, name, uid, generation, version, queue, retry, timeouts)
values ('default', $1, 'index', 'u', 1, 1, 'default', '{}', '{}');
insert into task_versions (cluster, namespace, task, version, shape_hash, shape)
values ('default', $1, 'index', 1, 'h', '{"entrypoint": "a:b"}');
insert into runs (run_id, cluster, namespace, name, task, queue, state, input, input_hash, origin, retry, timeouts,
                  expires_at)
values (gen_random_uuid(), 'default', $1, 'waits', 'index', 'default', 'queued', '{}', '', 'api', '{}', '{}',
        clock_timestamp() + interval '1 hour');
insert into run_heads (run_id) select run_id from runs;
insert into runs (run_id, cluster, namespace, name, task, version, queue, state, attempt, input, input_hash, origin)
values (gen_random_uuid(), 'default', $1, 'works', 'index', 1, 'default', 'running', 1, '{}', '', 'api');
insert into run_heads (run_id, attempt, token, pod_id)
select run_id, 1, nextval('fencing_tokens'), 'old' from runs where name = 'works';
insert into attempts (run_id, attempt, token, cause, state, pod_id)
select run_id, 1, token, 'first', 'running', 'old' from run_heads where pod_id = 'old';
insert into pods (pod_id, cluster, namespace, task, version, state, run_id, attempt, pod_uid)
select 'old', 'default', $1, 'index', 1, 'bound', run_id, 1, 'u' from runs where name = 'works';
"""


@pytest.fixture
async def empty(postgres_uri: str) -> AsyncIterator[Settings]:
    admin = await asyncpg.connect(postgres_uri)
    await admin.execute("create database released")
    yield Settings(database_url=_with_database(postgres_uri, "released"))
    await admin.execute("drop database released with (force)")
    await admin.close()


def test_what_was_released_is_never_edited() -> None:
    found = {f"{one.number:04}_{one.name}": one.checksum for one in migrations()}
    assert {name: found.get(name) for name in RELEASED} == RELEASED


async def test_a_released_database_is_upgraded_with_what_waits_in_it(
    empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = migrations()
    monkeypatch.setattr(module, "migrations", lambda: every[:BEFORE_WARM_PODS])
    assert await migrate(empty) == list(RELEASED)[:BEFORE_WARM_PODS]
    connection = await asyncpg.connect(empty.dsn, server_settings={"search_path": "milepost"})
    for statement in WAITING.strip().split(";\n"):
        await connection.execute(statement.replace("$1", f"'{NS}'"))
    await connection.close()
    monkeypatch.setattr(module, "migrations", lambda: every)
    assert len(await migrate(empty)) == len(every) - BEFORE_WARM_PODS
    async with PostgresStore.open(empty) as store:
        run = await store.get_run(NS, "works")
        done = SettleRequest(Fence(str(run.run_id), 1, 1), "succeeded", "1")
        assert await settled(store, PodSession("old", NS, "u"), done) == "succeeded"
        (pod,) = await store._db.fetch("select p.state, a.cold_reason from pods p join attempts a using (pod_id)")
        assert tuple(pod) == ("closing", "first"), "its sidecar knows of no next attempt"
        assert await (await next_pod(store)).succeed() == "succeeded"
        assert {k: v for k, v in (await store.violations()).items() if v} == {}
