"""Port `Lists`: pages of runs by keyset, whatever the filter: no offset, no count."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from milepost_operator.adapters.postgres import filters
from milepost_operator.adapters.postgres.database import Connection, Database, Row, as_uuid
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.lifecycle import CANCELLABLE, FAILING, Found, Page, Position, RunFilter
from milepost_operator.domain.runs import RecordView, Retry

WINDOW: Final = 2_000
"""Runs that one page of a search for an error's text looks through."""


class PostgresLists:
    """A page is two statements: the ids in order, planned for what is asked, then what is shown of them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def page(self, namespace: str | None, asked: RunFilter, before: Position | None, limit: int) -> Page:
        async def work(connection: Connection) -> tuple[Sequence[Row], Position | None]:
            await connection.execute(Q["list_settings"])
            namespaces = [namespace] if namespace is not None else await self._namespaces(connection)
            return await self._ids(connection, namespaces, asked, before, limit)

        rows, following = await self._db.transaction(work)
        return Page(await self._shown(rows), following)

    async def dead_letters(self, namespace: str, asked: RunFilter, before: Position | None, limit: int) -> Page:
        async def work(connection: Connection) -> tuple[Sequence[Row], Position | None]:
            await connection.execute(Q["list_settings"])
            query, arguments = filters.dead_letters(self._db.cluster, namespace, asked, before, limit + 1)
            return _cut(await connection.fetch(query, *arguments), limit)

        rows, following = await self._db.transaction(work)
        return Page(await self._shown(rows), following)

    async def find_live(self, namespace: str, asked: RunFilter, before: Position | None, limit: int) -> Found:
        live = asked.within(CANCELLABLE)
        if live is None or live.by_finish:
            return Found([], None)

        async def work(connection: Connection) -> Found:
            await connection.execute(Q["list_settings"])
            query, arguments = filters.ids(self._db.cluster, [namespace], live, before, limit + 1)
            rows, following = _cut(await connection.fetch(query, *arguments), limit)
            return Found([as_uuid(row["run_id"]) for row in rows], following)

        return await self._db.transaction(work)

    async def last_records(self, run_id: UUID, limit: int) -> Sequence[RecordView]:
        rows = await self._db.fetch(Q["last_records"], run_id, limit)
        return [RecordView(r["seq"], r["kind"], r["key"], r["bytes"], r["created_at"]) for r in rows]

    async def _namespaces(self, connection: Connection) -> list[str]:
        return [row["namespace"] for row in await connection.fetch(Q["namespaces_with_runs"], self._db.cluster)]

    async def _ids(
        self, connection: Connection, namespaces: Sequence[str], asked: RunFilter, before: Position | None, limit: int
    ) -> tuple[Sequence[Row], Position | None]:
        if asked.error is None:
            query, arguments = filters.ids(self._db.cluster, namespaces, asked, before, limit + 1)
            return _cut(await connection.fetch(query, *arguments), limit)
        ended = asked.within(FAILING)
        if ended is None:
            return [], None
        query, arguments = filters.failures(self._db.cluster, namespaces, ended, before, window=WINDOW, limit=limit + 1)
        rows = await connection.fetch(query, *arguments)
        hits, following = _cut([row for row in rows if row["hit"]], limit)
        full = bool(rows) and rows[-1]["place"] == WINDOW
        return hits, following or (_position(rows[-1]) if full else None)

    async def _shown(self, rows: Sequence[Row]) -> str:
        if not rows:
            return "[]"
        ids, places = [row["run_id"] for row in rows], list(range(len(rows)))
        (found,) = await self._db.fetch(Q["summaries"], ids, places, Retry().max_attempts)
        return str(found["shown"])


def _cut(rows: Sequence[Row], limit: int) -> tuple[Sequence[Row], Position | None]:
    """One row more than the page was asked for: there is a next one."""
    page = rows[:limit]
    return page, _position(page[-1]) if len(rows) > limit else None


def _position(row: Row) -> Position:
    return Position(row["at"], as_uuid(row["run_id"]))
