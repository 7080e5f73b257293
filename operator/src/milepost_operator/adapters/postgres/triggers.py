"""Port `Triggers`: runs are made here, each once, many in a statement."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from typing import Final, TypeAlias
from uuid import UUID

import asyncpg

from milepost_operator.adapters.postgres.database import Connection, Database, Row, as_uuid
from milepost_operator.adapters.postgres.depths import Depths
from milepost_operator.adapters.postgres.endings import add_event
from milepost_operator.adapters.postgres.gates import debounces_of, put_off, put_off_only, throttled
from milepost_operator.adapters.postgres.items import Item, create_arguments, items_of, owner_arguments
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.schemas import Schemas
from milepost_operator.domain.errors import ConflictError, MilepostError, OverloadedError
from milepost_operator.domain.inputs import input_hash
from milepost_operator.domain.runs import Created, NewRun
from milepost_operator.domain.states import TERMINAL, RunState
from milepost_operator.domain.triggers import Claim, Owner, identity_of, leaders, resolve

KEY_WITHOUT_RUN: Final = "MP001"
STALE: Final = "stale"
ROUNDS: Final = 8
_ADOPTED: Final = (
    "this Run shows the {state} run of its name, task and input, which is not run again:"
    " to run it again, choose another name (metadata.generateName gives a fresh one each time)"
)

Fetch: TypeAlias = Callable[..., Awaitable[Sequence[Row]]]
Answers: TypeAlias = dict[int, Created | MilepostError]


class PostgresTriggers:
    """New runs, by HTTP and by kubectl."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @cached_property
    def _depths(self) -> Depths:
        return Depths(self._db)

    @cached_property
    def _schemas(self) -> Schemas:
        return Schemas(self._db)

    @cached_property
    def _seen_keys(self) -> list[UUID]:
        """How far the walk over the keys of scope `active` has come."""
        return [UUID(int=0)]

    async def create_run(self, run: NewRun) -> Created:
        """As of the port `Intake`: a Run object that has its run already, or names one, gets that one."""
        for left in (1, 0):
            if run.intent_uid is not None and (found := await self._db.transaction(lambda c: self._existing(c, run))):
                return found
            (answer,) = await self.create_runs([run])
            if isinstance(answer, Created):
                return answer
            # Another replica may have taken the same object in at this moment: then its run is there now.
            if run.intent_uid is None or not left or answer.code != "name-taken":
                raise answer
        raise AssertionError("the second try returns or raises")

    async def create_runs(self, runs: Sequence[NewRun], *, together: bool = False) -> Sequence[Created | MilepostError]:
        items = items_of(runs)
        wrong = await self._schemas.misfits(items)
        async with self._depths.room(runs, wrong) as full:
            refused = [item for item in items if item.index in full or item.index in wrong]
            answers: Answers = {**full, **wrong, **await self._known(self._db.fetch, refused)}
            crowded = [items[index] for index in full]
            if any(item.run.debounce for item in crowded):
                answers |= await self._db.transaction(lambda connection: self._only_put_off(connection, crowded))
            if refused:
                items = [item for item in items if item.index not in answers]
            if (together and len(items) > 1) or any(item.run.debounce or item.run.throttle for item in items):
                answers |= await self._db.transaction(lambda connection: self._in_transaction(connection, items))
            elif items:
                answers |= await self._insert(self._db.fetch, items)
        if any(isinstance(answer, Created) and not answer.duplicate for answer in answers.values()):
            self._db.wake_others("admit")
        return [answers[index] for index in range(len(runs))]

    async def ended(self, run_ids: Sequence[UUID]) -> Sequence[UUID]:
        rows = await self._db.fetch(Q["ended_runs"], list(run_ids))
        return [as_uuid(row["run_id"]) for row in rows]

    async def forget_triggers(self, limit: int) -> int:
        deleted = 0
        for query in ("expired_window_keys", "expired_debounces", "expired_throttles"):
            rows = await self._db.fetch(Q[query] + "\nreturning 1", self._db.cluster, limit)
            deleted += len(rows)
        rows = await self._db.fetch(Q["active_keys"], self._db.cluster, self._seen_keys[0], limit)
        self._seen_keys[0] = as_uuid(rows[-1]["run_id"]) if len(rows) == limit else UUID(int=0)
        ended = [row for row in rows if row["ended"]]
        await self._free(self._db.fetch, [(r["namespace"], r["task"], r["key"], r["run_id"]) for r in ended])
        return deleted + len(ended)

    async def _only_put_off(self, connection: Connection, items: Sequence[Item]) -> Answers:
        """There is no room for new runs: what is debounced may still push those that wait."""
        answers = await self._unfit(connection.fetch, items, lock=True)
        fitting = [item for item in items if item.index not in answers]
        return {**answers, **await put_off_only(connection, self._db.cluster, fitting)}

    async def _in_transaction(self, connection: Connection, items: Sequence[Item]) -> Answers:
        async def fetch(query: str, *args: object) -> Sequence[Row]:
            async with connection.transaction():  # a statement that fails is tried again, the rest stays
                rows: Sequence[Row] = await connection.fetch(query, *args)
                return rows

        answers: Answers = {}
        if any(item.run.debounce or item.run.throttle for item in items):  # these have effects before the insertion
            answers |= await self._unfit(fetch, items, lock=True)
        fitting = [item for item in items if item.index not in answers]
        answers |= await throttled(connection, self._db.cluster, fitting, lambda some: self._known(fetch, some))
        passed = [item for item in items if item.index not in answers]
        groups = debounces_of(passed)
        answers |= await put_off(connection, self._db.cluster, groups)
        groups = [group for group in groups if group.item.index not in answers]
        fresh = [item for item in passed if item.run.debounce is None] + [group.item for group in groups]
        answers |= await self._insert(fetch, fresh)
        for group in groups:
            made = answers[group.item.index]
            answers |= group.answers(made) if isinstance(made, Created) else {i.index: made for i in group.items}
        return answers

    async def _insert(self, fetch: Fetch, items: Sequence[Item]) -> Answers:
        """Insert what can be; ask who was first for the rest; again, where nobody was any more."""
        answers: Answers = {}
        left = list(items)
        for _ in range(ROUNDS):
            firsts = leaders(item.run for item in left)
            # In one order for all: two calls that want each other's keys wait for one another, and never both.
            first = sorted((item for item, leads in zip(left, firsts, strict=True) if leads), key=_order)
            made, stale = await self._create(fetch, first)
            if stale:
                made |= await self._unfit(fetch, stale)
            answers |= made
            left = [item for item in left if item.index not in made]
            if not left:
                return answers
            settled = await self._resolved(fetch, left)
            answers |= settled
            left = [item for item in left if item.index not in settled]
        message = "others took and gave back what this run asked for, again and again"
        return answers | {item.index: OverloadedError(message) for item in left}

    async def _create(self, fetch: Fetch, items: Sequence[Item]) -> tuple[Answers, list[Item]]:
        """What was inserted, and those whose schema was not that of their Task any more."""
        args = create_arguments(items, self._db.settings.idempotency_seconds)
        try:
            rows = await fetch(Q["create_runs"], self._db.cluster, *args)
        except asyncpg.PostgresError as error:
            if error.sqlstate != KEY_WITHOUT_RUN:
                raise
            # Some run's name or singleton was taken: nothing was inserted. Each on its own, so that the others are.
            if len(items) == 1:
                return {}, []
            answers: Answers = {}
            stale: list[Item] = []
            for item in items:
                made, old = await self._create(fetch, [item])
                answers |= made
                stale += old
            return answers, stale
        states = {row["run_id"]: row for row in rows}
        made = {
            item.index: Created(item.run_id, item.name, RunState(row["state"]), False, row["ready_at"])
            for item in items
            if (row := states.get(item.run_id)) and row["state"] != STALE
        }
        return made, [item for item in items if (row := states.get(item.run_id)) and row["state"] == STALE]

    async def _resolved(self, fetch: Fetch, items: Sequence[Item]) -> Answers:
        rows = await fetch(Q["trigger_owners"], self._db.cluster, *owner_arguments(items))
        owners: dict[UUID, dict[Claim, Owner]] = defaultdict(dict)
        for row in rows:
            owners[row["item"]][row["claim"]] = Owner(
                as_uuid(row["run_id"]),
                row["name"],
                RunState(row["state"]),
                row["input_hash"],
                row["ready_at"],
                gone=row["gone"],
            )
        answers: Answers = {}
        gone: list[tuple[str, str, str, UUID]] = []
        for item in items:
            claims = owners.get(item.run_id, {})
            answer = resolve(item.run, item.digest, claims)
            if answer is not None:
                answers[item.index] = answer
            elif "key" in claims and item.run.idempotency_key is not None:
                gone.append((item.run.namespace, item.run.task, item.run.idempotency_key, claims["key"].run_id))
            elif "name" in claims:
                item.rename()
        await self._free(fetch, gone)
        return answers

    async def _unfit(self, fetch: Fetch, items: Sequence[Item], *, lock: bool = False) -> Answers:
        """The answers to those whose input does not fit the schema of now."""
        wrong = await self._schemas.looked_again(items, fetch, lock=lock)
        return {**wrong, **await self._known(fetch, [item for item in items if item.index in wrong])}

    async def _known(self, fetch: Fetch, items: Sequence[Item]) -> Answers:
        """Of calls that may be refused: those whose run is there already get it all the same."""
        asked = [item for item in items if item.run.intent_uid or identity_of(item.run)]
        if not asked:
            return {}
        found = await self._resolved(fetch, asked)
        return {index: answer for index, answer in found.items() if _of_another(answer)}

    async def _free(self, fetch: Fetch, keys: Sequence[tuple[str, str, str, UUID]]) -> None:
        if keys:
            await fetch(Q["free_keys"], self._db.cluster, *[list(column) for column in zip(*keys, strict=True)])

    async def _existing(self, connection: Connection, run: NewRun) -> Created | None:
        """The run that this object already made, by its uid or by the name it carries."""
        row = await connection.fetchrow(Q["run_by_intent"], self._db.cluster, run.intent_uid)
        if row is not None:
            return Created(as_uuid(row["run_id"]), row["name"], RunState(row["state"]), duplicate=True)
        row = await connection.fetchrow(Q["run_to_adopt"], self._db.cluster, run.namespace, run.adopt_run_id, run.name)
        if row is None:
            return None
        if row["task"] != run.task or row["input_hash"] != (run.digest or input_hash(run.input)):
            raise ConflictError(
                "name-taken",
                f"the run {row['name']} of this namespace exists with another task or input: choose another name"
                " (metadata.generateName gives a fresh one each time)",
            )
        if row["name"] == run.name:  # a copy under another name is a duplicate, and takes no run from its object
            await connection.execute(Q["adopt_run"], row["run_id"], run.intent_uid)
            if RunState(row["state"]) in TERMINAL:
                await add_event(connection, row["run_id"], "RunAdopted", _ADOPTED.format(state=row["state"]))
        return Created(as_uuid(row["run_id"]), row["name"], RunState(row["state"]), duplicate=True)


def _order(item: Item) -> tuple[str, ...]:
    return (*(identity_of(item.run) or ()), item.name)


def _of_another(answer: Created | MilepostError) -> bool:
    return isinstance(answer, Created) or answer.code in {"idempotency-mismatch", "singleton-exists"}
