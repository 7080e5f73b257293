"""Why a record was not taken, though its attempt may write."""

from uuid import UUID

from milepost.wire.pod import RecordWrite
from milepost_operator.adapters.postgres.database import Database
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import ConflictError, MilepostError, RunLimitError


async def why_left_out(db: Database, run_id: UUID, write: RecordWrite) -> MilepostError:
    """Why a record was not taken, though its attempt may write."""
    why = await db.fetchrow(Q["explain_record"], run_id, write.key, write.kind, write.base)
    if why is None or why["known"]:
        return ConflictError("step-exists", f"step {write.key!r} is recorded already: the first write wins")
    if not why["based"]:
        return ConflictError("unknown-base", f"{write.key!r} is told as a delta on what is not there: send it whole")
    big = await db.fetchrow(Q["biggest_key"], run_id, why["full"])
    key, records, size = (big["key"], big["records"], big["bytes"]) if big else (write.key, 1, kept_bytes(write))
    limit, most = ("maxCount", why["max_records"]) if why["full"] else ("maxBytes", why["max_records_bytes"])
    message = (
        f"a run of this Task may have {most} {'records' if why['full'] else 'bytes of records'} (records.{limit});"
        f" most of them are of {key!r}: {records} records, {size} bytes"
    )
    return RunLimitError(f"records.{limit}", most, key, message)


def kept_bytes(write: RecordWrite) -> int:
    """Bytes of what is kept of a record."""
    text = write.value if write.delta is None else write.delta
    return len(text) if text.isascii() else len(text.encode())
