"""A task, a pod and a clock for tests of the store: what the operator and a sidecar would do, in a few words."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from milepost.wire.pod import Evidence, Failure, Fence, RecordsRequest, RecordWrite, SettleRequest, Start, Wait
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import MilepostError
from milepost_operator.domain.runs import Created, NewRun, PodSession, Retry, TaskIntake, Timeouts
from milepost_operator.ports.store import PodStore

T = TypeVar("T")
NS = "team"
_ids = itertools.count()


async def apply_task(store: PostgresStore, name: str = "index", **changes: object) -> int:
    fields = {
        "namespace": NS,
        "name": name,
        "uid": f"uid-{name}",
        "generation": 1,
        "shape": {"entrypoint": "a:b"},
        "queue": "default",
        "retry": Retry(min_seconds=0.0, max_seconds=0.0),
        "timeouts": Timeouts(),
    }
    return await store.apply_task(TaskIntake(**(fields | changes)))  # type: ignore[arg-type]


async def trigger(store: PostgresStore, task: str = "index", **changes: object) -> Created:
    return await store.create_run(NewRun(**({"namespace": NS, "task": task, "input": "{}"} | changes)))  # type: ignore[arg-type]


@dataclass
class Pod:
    """A sidecar at work: it started its attempt and may write while its fence holds."""

    store: PostgresStore
    session: PodSession
    start: Start

    @property
    def fence(self) -> Fence:
        return Fence(self.start.run_id, self.start.attempt, self.start.token)

    async def write(self, key: str, value: str = "1", kind: str = "step", write_id: str | None = None) -> object:
        record = RecordWrite(write_id or f"w{next(_ids)}", kind, key, value)  # type: ignore[arg-type]
        (answer,) = await self.store.append([(self.session, RecordsRequest(self.fence, [record]))])
        return answer

    async def succeed(self, result: str = '{"ok": true}') -> str:
        return await settled(self.store, self.session, SettleRequest(self.fence, "succeeded", result))

    async def fail(self, kind: str = "user", **changes: object) -> str:
        failure = Failure(kind, "ValueError", "no", "trace", **changes)  # type: ignore[arg-type]
        return await settled(self.store, self.session, SettleRequest(self.fence, "failed", None, failure, Evidence()))

    async def suspend(self, *waits: Wait) -> str:
        return await settled(self.store, self.session, SettleRequest(self.fence, "suspended", waits=list(waits)))

    async def records(self) -> list[tuple[str, str]]:
        return [(r.key, r.value) async for r in self.store.records(self.fence, 0)]


def told(answer: T | MilepostError) -> T:
    """The answer to one of many, or raise the error that it is."""
    if isinstance(answer, MilepostError):
        raise answer
    return answer


async def started(store: PodStore, session: PodSession) -> Start:
    (answer,) = await store.start([session])
    return told(answer)


async def settled(store: PodStore, session: PodSession, request: SettleRequest) -> str:
    (answer,) = await store.settle([(session, request)])
    return told(answer)


async def launch(store: PostgresStore) -> list[PodSession]:
    """Promote, admit, make the Jobs, and let each pod's sidecar open its session."""
    await store.promote(100)
    await store.admit(100)
    epoch = await store.take_epoch("test")
    sessions = []
    for order in await store.take_wanted(epoch, 100):
        assert await store.launched(epoch, order.pod_id, f"job-{order.pod_id}")
        name = f"mp-{order.pod_id}-abcde"
        sessions.append(await store.open_session(order.pod_id, order.namespace, f"pod-{order.pod_id}", name))
    return sessions


async def next_pod(store: PostgresStore) -> Pod:
    """The one attempt that can start now."""
    (session,) = await launch(store)
    return Pod(store, session, await started(store, session))


async def eventually(check: Callable[[], Awaitable[object]], seconds: float = 5.0) -> None:
    """Poll until `check` is true; AssertionError after `seconds`."""
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110  the database has no event for it
            await asyncio.sleep(0.02)


async def served_for(store: PostgresStore, since: str, until: str = "0") -> None:
    """The api took heartbeats since so long ago, and last did so `until` ago."""
    await store.pulse()
    query = "update service_pulse set up_since = clock_timestamp() - $1::text::interval,"
    await store._db.fetch(query + " seen_at = clock_timestamp() - $2::text::interval", since, until)
