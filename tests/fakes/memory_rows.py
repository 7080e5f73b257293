"""What the store in memory holds, and how a call of it commits."""

import asyncio
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from milepost.wire.pod import (
    HeartbeatRequest,
    Record,
    SettleRequest,
)
from milepost_operator.domain.errors import (
    NotFoundError,
    UnavailableError,
)
from milepost_operator.domain.queues import QueueView
from milepost_operator.domain.runs import Chunk, Ending, RunView
from milepost_operator.domain.warm import PodFacts, WarmPolicy, retires

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
WARM = WarmPolicy(60, 5)


@dataclass
class FakePod:
    """A pods row with its reserved attempt; `closed` once that has ended, or else in a `slot` (resting, idle, offered)
    between two attempts.
    """

    pod_id: str
    namespace: str
    run_id: UUID
    attempt: int
    token: int
    pod_uid: str | None = None
    closed: bool = False
    settled: bool = False
    state: str = "reserved"
    reason: str | None = None
    counted: bool = False
    reusable: bool = False
    slot: str | None = None
    runs: int = 0

    def end(self, ending: Ending, *, settled: bool) -> None:
        self.state, self.reason, self.counted = "ended", ending.reason, ending.counted
        self.closed, self.settled = True, settled
        facts = PodFacts(self.reusable, self.runs + 1, age_seconds=0.0, current=True, keeps=None)
        if settled and retires(WARM, facts, ending) is None:
            self.closed, self.slot, self.runs = False, "resting", self.runs + 1


@dataclass
class FakeRun:
    view: RunView
    token: int = 0
    records: list[Record] = field(default_factory=list)
    write_ids: dict[str, int] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    chunk_ids: dict[str, int] = field(default_factory=dict)
    cancelled: bool = False
    signals: list[tuple[str, str, str | None]] = field(default_factory=list)


class MemoryRows:
    """`down` makes every call raise UnavailableError; `commits` counts commits; `hold` (an event) delays them."""

    def __init__(self) -> None:
        self.runs: dict[UUID, FakeRun] = {}
        self.pods: dict[str, FakePod] = {}
        self.past: list[FakePod] = []
        """Earlier attempts of pods that have another one."""
        self.keys: dict[tuple[str, str, str], UUID] = {}
        self.left: dict[str, list[str]] = {}
        """What the imports of pods left."""
        self.beats: list[HeartbeatRequest] = []
        self.settles: list[SettleRequest] = []
        self.queues: dict[tuple[str, str], QueueView] = {}
        self.bumped: list[UUID] = []
        self.max_run_records = 20_000
        self.down = False
        self.max_stream_bytes = 16_777_216
        self.commits = 0
        self.hold: asyncio.Event | None = None
        self._numbers = itertools.count(1)

    async def _commit(self) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.down:
            raise UnavailableError("Postgres can't be reached", 2.0)
        self.commits += 1

    def _run(self, run_id: UUID) -> FakeRun:
        if run_id not in self.runs:
            raise NotFoundError(f"no run {run_id}")
        return self.runs[run_id]
