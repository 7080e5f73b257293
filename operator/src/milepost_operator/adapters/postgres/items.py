"""Runs to insert as the columns that the statements take: one array each, so that one run costs what a thousand do."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from milepost_operator.adapters.postgres.database import to_json
from milepost_operator.domain.ids import NAME_SUFFIX_BYTES, run_name, uuid7
from milepost_operator.domain.inputs import input_hash
from milepost_operator.domain.runs import NewRun

_ID_BYTES: Final = 10
_RANDOM_BYTES: Final = _ID_BYTES + NAME_SUFFIX_BYTES


@dataclass(slots=True, eq=False)
class Item:
    """A run with what is ours to choose: its id, and its name where it has none. `index`: its place in the call.

    `schema`: what its input was checked against.
    """

    index: int
    run: NewRun
    run_id: UUID
    name: str
    digest: bytes
    schema: str | None = None

    def rename(self) -> None:
        """Another name, after its first one was found taken."""
        self.name = self.run.name or run_name(self.run.task, os.urandom(NAME_SUFFIX_BYTES))

    def mean(self, run: NewRun) -> None:
        """Stand for `run` from now on."""
        self.run = run
        self.digest = run.digest or input_hash(run.input)


def items_of(runs: Sequence[NewRun]) -> list[Item]:
    """In the order of the call."""
    random = os.urandom(_RANDOM_BYTES * len(runs))
    milliseconds = time.time_ns() // 1_000_000
    items: list[Item] = []
    for index, run in enumerate(runs):
        own = random[index * _RANDOM_BYTES : (index + 1) * _RANDOM_BYTES]
        name = run.name or run_name(run.task, own[_ID_BYTES:])
        run_id = uuid7(milliseconds, own[:_ID_BYTES])
        items.append(Item(index, run, run_id, name, run.digest or input_hash(run.input)))
    return items


def create_arguments(items: Sequence[Item], idempotency_seconds: int) -> tuple[list[object], ...]:
    """The arrays of `create_runs`, from its second argument on."""
    runs = [item.run for item in items]
    return (
        [item.run_id for item in items],
        [run.namespace for run in runs],
        [run.task for run in runs],
        [item.name for item in items],
        [run.input for run in runs],
        [item.digest for item in items],
        [to_json(list(run.tags)) if run.tags else None for run in runs],
        [run.idempotency_key for run in runs],
        [_key_seconds(run, idempotency_seconds) for run in runs],
        [run.debounce.seconds if run.debounce else run.delay_seconds for run in runs],
        [run.at for run in runs],
        [run.ttl_seconds for run in runs],
        [run.deadline_seconds for run in runs],
        [run.priority for run in runs],
        [run.concurrency_key for run in runs],
        [run.cost for run in runs],
        [run.singleton.key if run.singleton else None for run in runs],
        [run.origin for run in runs],
        [run.intent_uid for run in runs],
        [item.schema for item in items],
    )


def _key_seconds(run: NewRun, default: int) -> float | None:
    if run.idempotency_scope == "active":
        return None
    return float(run.idempotency_seconds or default)


def owner_arguments(items: Sequence[Item]) -> tuple[list[object], ...]:
    """The arrays of `trigger_owners`, from its second argument on."""
    return (
        [item.run_id for item in items],
        [item.run.namespace for item in items],
        [item.run.task for item in items],
        [item.name for item in items],
        [item.run.idempotency_key for item in items],
        [item.run.singleton.key if item.run.singleton else None for item in items],
        [item.run.intent_uid for item in items],
    )
