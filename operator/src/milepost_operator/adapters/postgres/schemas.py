"""Inputs of runs against the schemas of their Tasks.

A process remembers which schema each Task has. Whatever it remembers, nothing wrong gets in: the statement that inserts
runs compares the schema that an input was checked against with the one that the Task has, and inserts nothing where
they differ (`stale`); the caller looks again then.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeAlias

import orjson

from milepost_operator.adapters.postgres.database import Database, Row
from milepost_operator.adapters.postgres.items import Item
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.schema.compiled import Schema
from milepost_operator.manifests.schemas import mismatch, read_schema

MAX_TASKS: Final = 10_000
MAX_COMPILED: Final = 200
_BIG: Final = 4_096
"""Bytes of input from which on a check would hold up the event loop for milliseconds."""
_TURN: Final = 0.005
"""Seconds after which others get their turn between two checks."""

Fetch: TypeAlias = Callable[..., Awaitable[Sequence[Row]]]
Task: TypeAlias = tuple[str, str]


def schema_hash(text: str) -> str:
    """What a schema's text is known by."""
    return hashlib.sha256(text.encode()).hexdigest()


class Schemas:
    """One for each process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._of_task: dict[Task, str | None] = {}
        """As of the last look."""
        self._compiled: OrderedDict[str, Schema] = OrderedDict()

    async def misfits(self, items: Sequence[Item]) -> dict[int, InvalidInputError]:
        """By index, the items whose input does not fit; the others bear the schema that they were checked against."""
        unknown = {task for item in items if (task := (item.run.namespace, item.run.task)) not in self._of_task}
        if unknown:
            await self.look(unknown, self._db.fetch)
        wrong = await self._judged(items, self._db.fetch)
        if wrong:  # what is refused is refused by the schema of now
            again = [item for item in items if item.index in wrong]
            wrong = await self.looked_again(again, self._db.fetch)
        return wrong

    async def looked_again(
        self, items: Sequence[Item], fetch: Fetch, *, lock: bool = False
    ) -> dict[int, InvalidInputError]:
        """The same, by what the Tasks have now; `lock`: and keep until the transaction of `fetch` ends."""
        await self.look({(item.run.namespace, item.run.task) for item in items}, fetch, lock=lock)
        return await self._judged(items, fetch)

    async def look(self, tasks: Iterable[Task], fetch: Fetch, *, lock: bool = False) -> dict[Task, str]:
        """The hashes of these Tasks' schemas; those that have none are left out."""
        asked = sorted(set(tasks))
        columns = [task[0] for task in asked], [task[1] for task in asked]
        rows = await fetch(Q["lock_input_schemas" if lock else "input_schemas"], self._db.cluster, *columns)
        found = {(row["namespace"], row["task"]): row["input_schema"] for row in rows if row["input_schema"]}
        if len(self._of_task) > MAX_TASKS:
            self._of_task.clear()
        self._of_task |= {task: found.get(task) for task in asked}
        return found

    async def check(self, task: str, digest: str, text: str, fetch: Fetch) -> InvalidInputError | None:
        """What is wrong with an input (JSON text), whose path is `$.input`."""
        schema = await self._schema(digest, fetch)
        if len(text) > _BIG:
            return await asyncio.to_thread(mismatch, schema, task, text)
        return mismatch(schema, task, text)

    async def _judged(self, items: Sequence[Item], fetch: Fetch) -> dict[int, InvalidInputError]:
        wrong: dict[int, InvalidInputError] = {}
        turn = time.monotonic()
        for item in items:
            if time.monotonic() - turn > _TURN:
                await asyncio.sleep(0)
                turn = time.monotonic()
            item.schema = self._of_task.get((item.run.namespace, item.run.task))
            if item.schema is not None and (
                error := await self.check(item.run.task, item.schema, item.run.input, fetch)
            ):
                wrong[item.index] = error
        return wrong

    async def _schema(self, digest: str, fetch: Fetch) -> Schema:
        known = self._compiled.get(digest)
        if known is not None:
            self._compiled.move_to_end(digest)
            return known
        (row,) = await fetch(Q["schema_bodies"], [digest])
        schema = await asyncio.to_thread(read_schema, orjson.loads(row["body"]))
        self._compiled[digest] = schema
        if len(self._compiled) > MAX_COMPILED:
            self._compiled.popitem(last=False)
        return schema
