"""Records as their tasks read them: a value that is kept as a delta on an earlier one is put together."""

import sys
from typing import Final
from uuid import UUID

from milepost.wire.delta import loaded, spliced
from milepost.wire.pod import Record
from milepost_operator.adapters.postgres.database import Database, Row
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import DamagedError

KEPT_BYTES: Final = 4 * 1024 * 1024


class Values:
    """The values of one run, for one reader. Those given last are kept: the next ones are often made of them."""

    def __init__(self, db: Database, run_id: UUID) -> None:
        self._db = db
        self._run_id = run_id
        self._texts: dict[int, str] = {}
        self._size = 0

    async def record(self, row: Row) -> Record:
        """Make a row of `records_page` a record. DamagedError when its parts don't give what was written."""
        if row["object"] is not None:
            return self._record(row, "", row["bytes"])
        text = row["value"] if row["delta"] is None else await self._whole(row)
        self._keep(row["seq"], text)
        return self._record(row, text)

    @staticmethod
    def _record(row: Row, text: str, object_bytes: int = 0) -> Record:
        return Record(
            row["seq"],
            row["kind"],
            row["key"],
            text,
            row["types"],
            row["fingerprint"],
            row["attempt"],
            row["failed"],
            row["depth"],
            object_bytes,
        )

    async def _whole(self, row: Row) -> str:
        try:
            base = self._texts.get(row["base"])
            if base is not None:
                return _checked(spliced(base, loaded(row["delta"])), row["bytes"])
            full, *rest = await self._db.fetch(Q["record_chain"], self._run_id, row["seq"])
            text: str = full["value"]
            for part in rest:
                text = _checked(spliced(text, loaded(part["delta"])), part["bytes"])
        except ValueError as error:
            message = f"record {row['seq']} ({row['key']!r}) of run {self._run_id} can't be put together: {error}"
            raise DamagedError(message) from error
        return text

    def _keep(self, seq: int, text: str) -> None:
        self._texts[seq] = text
        self._size += sys.getsizeof(text)
        while self._size > KEPT_BYTES:
            self._size -= sys.getsizeof(self._texts.pop(next(iter(self._texts))))


def _checked(text: str, size: int) -> str:
    found = len(text) if text.isascii() else len(text.encode())
    if found != size:
        raise ValueError(f"it has {found} bytes and not {size}")
    return text
