"""Port `Launches`: pods rows become Jobs, and pods' ends become rows. Every launch is checked against the epoch."""

from collections.abc import Sequence
from typing import Final

import orjson

from milepost_operator.adapters.postgres.database import Connection, Database, Row, as_uuid, seconds, to_json
from milepost_operator.adapters.postgres.endings import end_attempt, lock_run, warm_policy
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.warm import idle_pods, retire, take_back
from milepost_operator.domain.errors import DeposedError, UnavailableError
from milepost_operator.domain.launches import PREFERENCE_SECONDS, SAMPLE, Line, to_launch
from milepost_operator.domain.runs import Ending, OpenPod, PodOrder
from milepost_operator.domain.states import Reason
from milepost_operator.domain.warm import ENDED, ColdFacts, cold_reason, least_used

_LOOKS: Final = 5
UNHEARD: Final = ("ahead", "wanted", "creating", "created")
"""States of rows whose sidecars have not spoken."""


class PostgresLaunches:
    """The leader's side of pods."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def take_epoch(self, holder: str, template_hash: str = "") -> int:
        row = await self._db.fetchrow(Q["take_epoch"], self._db.cluster, holder, template_hash)
        if row is None:
            raise AssertionError("an upsert returns its row")
        return int(row["epoch"])

    async def take_wanted(self, epoch: int, limit: int) -> Sequence[PodOrder]:
        async def work(connection: Connection) -> Sequence[PodOrder]:
            await self._check(connection, epoch)
            cold = await self._cold_ones(connection)
            rows = await connection.fetch(
                Q["take_wanted"], self._db.cluster, epoch, list(cold), list(cold.values()), limit
            )
            wanted = [row for row in rows if not row["ahead"]]
            if wanted:
                told = [row["pod_id"] for row in wanted], [self._cold(row) for row in wanted]
                await connection.execute(Q["note_cold"], *told)
            ahead = await connection.fetch(Q["take_ahead"], self._db.cluster, epoch, limit - len(rows))
            return [*(_order(r, ahead=r["ahead"]) for r in rows), *(_order(r, ahead=True) for r in ahead)]

        return await self._db.transaction(work)

    async def _cold_ones(self, connection: Connection) -> dict[str, bool]:
        """Wanted pods that are to be made, and whether a warm one was there for it."""
        rows = await connection.fetch(Q["lines"], self._db.cluster, seconds(PREFERENCE_SECONDS), SAMPLE)
        cold: dict[str, bool] = {}
        for row in rows:
            line = Line(row["waits"], row["warm"], row["coming"], row["serving"], row["cold"])
            cold |= {row["pods"][place]: place < line.warm for place in to_launch(line)}
        return cold

    async def launched(self, epoch: int, pod_id: str, job_uid: str) -> bool:
        if await self._db.fetchrow(Q["launched"], self._db.cluster, pod_id, epoch, job_uid):
            return True
        row = await self._db.fetchrow(Q["pod_row"], self._db.cluster, pod_id)
        if row is not None and row["state"] == "creating":
            raise DeposedError(f"epoch {epoch} is over: a newer one launches pod {pod_id}, and adopts its Job")
        return False

    async def open_pods(self) -> Sequence[OpenPod]:
        rows = await self._db.fetch(Q["open_pods"], self._db.cluster)
        return [
            OpenPod(
                r["pod_id"],
                r["namespace"],
                r["state"],
                r["job_uid"],
                r["pod_uid"],
                as_uuid(r["run_id"]) if r["run_id"] else None,
                r["attempt"],
                r["age_seconds"],
                r["grace_seconds"],
                r["unheard_seconds"],
                r["ended_as"],
            )
            for r in rows
        ]

    async def note_pod(self, pod_id: str, reason: str, message: str) -> None:
        await self._db.fetch(Q["note_run"], self._db.cluster, pod_id, reason, message)
        if reason == Reason.IMAGE_PULL:
            await self._db.fetch(Q["note_pull_failed"], self._db.cluster, pod_id)
        await self._db.fetch(Q["note_trouble"], self._db.cluster, pod_id, f"{reason}: {message}")
        self._db.wake("project")

    async def pod_digest(self, pod_id: str, digest: str) -> None:
        await self._db.fetch(Q["set_digest"], self._db.cluster, pod_id, digest)

    def _cold(self, row: Row) -> str:
        facts = ColdFacts(
            late=row["late"],
            other_key=row["other_key"],
            same=row["same"],
            other_memory=row["other_memory"],
            other_template=row["other_template"],
            other_version=row["other_version"],
            keeps=row["keeps"],
        )
        return cold_reason(warm_policy(self._db, row["warm"]), facts)

    async def pod_ended(
        self, epoch: int, pod_id: str, pod_uid: str | None, ending: Ending, *, unheard: bool = False
    ) -> bool:
        async def work(connection: Connection) -> bool:
            await self._check(connection, epoch)
            for _ in range(_LOOKS):
                pod = await connection.fetchrow(Q["pod_row"], self._db.cluster, pod_id)
                if pod is None or (pod_uid and pod["pod_uid"] and pod["pod_uid"] != pod_uid):
                    return False
                if unheard and pod["state"] not in UNHEARD:
                    return False
                if await self._end(connection, pod, ending, unheard=unheard):
                    return True
            raise UnavailableError(f"pod {pod_id} is given and taken faster than it can be ended")

        ended = await self._db.transaction(work)
        if ended:
            self._db.wake("admit", "launch", "project")
        return ended

    async def _end(self, connection: Connection, pod: Row, ending: Ending, *, unheard: bool) -> bool:
        """End the pod with what it has. False: it was given something else, or was heard of, meanwhile."""
        pod_id, states = pod["pod_id"], list(UNHEARD) if unheard else None
        if pod["run_id"] is None:
            trouble = f"{ending.reason}: {ending.message}"
            ended = await connection.fetch(Q["end_pod"], pod_id, None, None, states)
            if ended:
                await connection.execute(Q["note_trouble"], self._db.cluster, pod_id, trouble)
            return bool(ended)
        run = await lock_run(connection, pod["run_id"])
        if not unheard and await take_back(self._db, connection, [pod_id], "lost"):
            return True
        if not await connection.fetch(Q["end_pod"], pod_id, pod["run_id"], pod["attempt"], states):
            return False
        attempt = run and await connection.fetchrow(Q["attempt_for_ending"], run["run_id"], pod["attempt"])
        if run and attempt and attempt["state"] != "ended" and attempt["pod_id"] == pod_id:
            await end_attempt(self._db, connection, run, attempt, ending, settled=False)
        return True

    async def node_lost(self, pod_id: str, ending: Ending) -> bool:
        values = ending.message, Reason.LEASE_EXPIRED, ending.reason, to_json(ending.evidence)
        told = await self._db.fetch(Q["tell_node_lost"], self._db.cluster, pod_id, *values)
        if told:
            self._db.wake("project")
        return bool(told)

    async def retire_pod(self, epoch: int, pod_id: str, why: str) -> None:
        async def work(connection: Connection) -> None:
            await self._check(connection, epoch)
            if why == ENDED:
                await connection.execute(Q["note_unused"], self._db.cluster, pod_id)
            await retire(self._db, connection, pod_id, why)

        await self._db.transaction(work)
        self._db.wake("offer", "launch")

    async def make_room(self, epoch: int, namespace: str | None) -> bool:
        async def work(connection: Connection) -> bool:
            await self._check(connection, epoch)
            gone = least_used(await idle_pods(self._db, connection, namespace), 1)
            told = (self._db.cluster, gone, ["room"] * len(gone))
            return bool(gone and await connection.fetch(Q["close_warm"], *told))

        made = await self._db.transaction(work)
        if made:
            self._db.wake("offer")
        return made

    async def close_pod(self, pod_id: str) -> None:
        await self._db.fetch(Q["close_pod"], self._db.cluster, pod_id)

    async def _check(self, connection: Connection, epoch: int) -> None:
        current = await connection.fetchval(Q["check_epoch"], self._db.cluster)
        if current != epoch:
            raise DeposedError(f"epoch {epoch} is over, {current} leads")


def _order(row: Row, *, ahead: bool) -> PodOrder:
    return PodOrder(
        row["pod_id"],
        row["namespace"],
        row["task"],
        row["version"],
        row["template_hash"] or "",
        orjson.loads(row["shape"]),
        row["image_digest"],
        network=orjson.loads(row["network"]) if row["network"] else None,
        memory_class=row["memory_class"],
        ahead=ahead,
    )
