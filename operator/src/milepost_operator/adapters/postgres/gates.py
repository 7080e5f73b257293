"""What stands before an insertion and takes turns on a row: throttles and debounces. Inside the caller's transaction.

Rows are locked in the order of their keys, throttles before debounces before runs.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

import orjson

from milepost_operator.adapters.postgres.database import Connection, Row, as_uuid, to_json
from milepost_operator.adapters.postgres.items import Item
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import MilepostError, ThrottledError
from milepost_operator.domain.runs import Created, Debounce, Throttle
from milepost_operator.domain.states import RunState
from milepost_operator.domain.triggers import folded, leaders, throttle

Key = tuple[str, str, str]


Known = Callable[[Sequence[Item]], Awaitable[dict[int, Created | MilepostError]]]
"""Tells of calls whose run is there already, or another one in its place, by index."""


async def throttled(
    connection: Connection, cluster: str, items: Sequence[Item], known: Known
) -> dict[int, Created | MilepostError]:
    """Count calls that have a throttle; by index those that may not pass now, and those that make no run: they are not
    counted. A call that is sent again, because its answer was lost, would take the place of another, or find it taken.
    """
    groups: dict[Key, list[tuple[Item, Throttle]]] = defaultdict(list)
    for item in items:
        if item.run.throttle is not None:
            groups[item.run.namespace, item.run.task, item.run.throttle.key].append((item, item.run.throttle))
    if not groups:
        return {}
    rows = await connection.fetch(Q["lock_throttles"], cluster, *_columns(sorted(groups)))
    # After the lock: whoever sent the same call before has made its run by now.
    answers = await known([item for calls in groups.values() for item, _ in calls])
    saved: list[tuple[Key, str, float]] = []
    for row in rows:
        key: Key = (row["namespace"], row["task"], row["key"])
        fresh = [call for call in groups[key] if call[0].index not in answers]
        firsts = leaders(item.run for item, _ in fresh)
        calls = [call for call, leads in zip(fresh, firsts, strict=True) if leads]
        if not calls:
            continue
        terms = calls[-1][1]
        counts = _counts(row["counts"], terms.period_seconds)
        answer = throttle(counts, row["now"], terms.limit, terms.period_seconds, len(calls))
        for item, _ in calls[answer.passed :]:
            answers[item.index] = ThrottledError(
                f"throttle {terms.key!r} lets {terms.limit} calls pass in {terms.period_seconds:g} s:"
                f" come again in {max(1.0, answer.retry_after_seconds):.0f} s",
                answer.retry_after_seconds,
            )
        if answer.passed:
            text = to_json(
                {"period": terms.period_seconds, "slices": {str(n): count for n, count in answer.counts.items()}}
            )
            saved.append((key, text, terms.period_seconds))
    if saved:
        keys = _columns([key for key, _, _ in saved])
        texts, periods = [text for _, text, _ in saved], [period for _, _, period in saved]
        await connection.execute(Q["save_throttles"], cluster, *keys, texts, periods)
    return answers


def _counts(text: str, period: float) -> Mapping[int, int]:
    """A throttle with another period begins anew: its slices have other lengths."""
    kept = orjson.loads(text)
    if kept.get("period") != period:
        return {}
    return {int(number): count for number, count in kept["slices"].items()}


class Debounced:
    """The calls of one debounce key in this transaction: `item` stands for all of them."""

    def __init__(self, items: Sequence[Item], terms: Debounce) -> None:
        self.items = items
        self.terms = terms
        self.item = items[0]
        self.item.mean(folded([item.run for item in items]))

    @property
    def key(self) -> Key:
        return (self.item.run.namespace, self.item.run.task, self.terms.key)

    def answers(self, made: Created) -> dict[int, Created]:
        """What each call gets once the first one has made the run, or found it."""
        again = Created(made.run_id, made.name, made.state, duplicate=True, ready_at=made.ready_at)
        return {item.index: (made if item is self.item else again) for item in self.items}


def debounces_of(items: Sequence[Item]) -> list[Debounced]:
    """By key, in the order in which their rows are locked."""
    groups: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        if item.run.debounce is not None:
            groups[item.run.namespace, item.run.task, item.run.debounce.key].append(item)
    found = []
    for _, group in sorted(groups.items()):
        terms = group[-1].run.debounce
        if terms is not None:
            found.append(Debounced(group, terms))
    return found


async def put_off_only(connection: Connection, cluster: str, items: Sequence[Item]) -> dict[int, Created]:
    """Put off the runs that wait already, where there is no room for new ones."""
    by_key = {group.key: group for group in debounces_of(items)}
    if not by_key:
        return {}
    rows = await connection.fetch(Q["waiting_debounces"], cluster, *_columns(sorted(by_key)))
    known = [(row, by_key[row["namespace"], row["task"], row["key"]]) for row in rows]
    return _answered(known, await _push(connection, known))


async def put_off(connection: Connection, cluster: str, groups: Sequence[Debounced]) -> dict[int, Created]:
    """Put off the runs that wait already; the calls that are not in the answer need a new one."""
    if not groups:
        return {}
    by_key = {group.key: group for group in groups}
    args = _columns([group.key for group in groups])
    longest = [group.terms.max_seconds for group in groups]
    ids = [group.item.run_id for group in groups]
    rows = await connection.fetch(Q["lock_debounces"], cluster, ids, *args, longest)
    known = [(row, by_key[row["namespace"], row["task"], row["key"]]) for row in rows]
    known = [(row, group) for row, group in known if row["run_id"] != group.item.run_id]
    pushed = await _push(connection, known)
    answers = _answered(known, pushed)
    lapsed = [group for row, group in known if row["run_id"] not in pushed]
    if lapsed:
        args = _columns([group.key for group in lapsed])
        longest = [group.terms.max_seconds for group in lapsed]
        await connection.execute(Q["point_debounces"], cluster, [group.item.run_id for group in lapsed], *args, longest)
    return answers


def _answered(known: Sequence[tuple[Row, Debounced]], pushed: dict[UUID, Row]) -> dict[int, Created]:
    answers: dict[int, Created] = {}
    for row, group in known:
        if (run := pushed.get(row["run_id"])) is not None:
            state = RunState(run["state"])
            made = Created(as_uuid(run["run_id"]), run["name"], state, duplicate=True, ready_at=run["ready_at"])
            answers |= group.answers(made)
    return answers


async def _push(connection: Connection, known: Sequence[tuple[Row, Debounced]]) -> dict[UUID, Row]:
    if not known:
        return {}
    newest = [group.item if group.terms.latest else None for _, group in known]
    rows = await connection.fetch(
        Q["push_debounced"],
        [row["run_id"] for row, _ in known],
        [group.terms.seconds for _, group in known],
        [row["until"] for row, _ in known],
        [item and item.run.input for item in newest],
        [item and item.digest for item in newest],
    )
    return {row["run_id"]: row for row in rows}


def _columns(keys: Sequence[Key]) -> tuple[list[str], list[str], list[str]]:
    return [key[0] for key in keys], [key[1] for key in keys], [key[2] for key in keys]
