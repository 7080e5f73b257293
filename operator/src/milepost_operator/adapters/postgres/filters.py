# ruff: noqa: S608 (the parts of a query are those of this module, values are arguments)
"""Which rows a filter means, as SQL over `runs r`: a page's ids by keyset, from the index that has their order."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from milepost_operator.domain.lifecycle import FAILING, Position, RunFilter


@dataclass(slots=True)
class Statement:
    """Conditions and their arguments, numbered as they come."""

    conditions: list[str] = field(default_factory=list)
    arguments: list[object] = field(default_factory=list)

    def put(self, value: object) -> str:
        """The placeholder of one more argument."""
        self.arguments.append(value)
        return f"${len(self.arguments)}"

    def where(self, condition: str, value: object) -> None:
        """Add `condition`, in which {} stands for the value; nothing when there is no value."""
        if value is not None:
            self.conditions.append(condition.format(self.put(value)))


def ids(
    cluster: str,
    namespaces: Sequence[str],
    asked: RunFilter,
    before: Position | None,
    limit: int,
) -> tuple[str, Sequence[object]]:
    """The query for (run_id, at) of a page, newest first.

    Several namespaces or states are pages of their own, merged: each comes in order from its index.
    """
    made = Statement()
    size = made.put(limit)
    _common(made, cluster, asked)
    lanes = []
    if len(namespaces) == 1:
        made.where("r.namespace = {}", namespaces[0])
    else:
        lanes.append(f"unnest({made.put(list(namespaces))}::text[]) n (namespace)")
        made.conditions.append("r.namespace = n.namespace")
    if len(asked.states) == 1:
        made.where("r.state = {}", asked.states[0])
    elif asked.states and _in_order_of_states(asked):
        lanes.append(f"unnest({made.put(list(asked.states))}::text[]) s (state)")
        made.conditions.append("r.state = s.state")
    elif asked.states:
        made.where("r.state = any({}::text[])", list(asked.states))
    source, at = _source(made, asked)
    if before:
        key = "t.run_id" if asked.tag is not None else "r.run_id"
        made.conditions.append(f"({at}, {key}) < ({made.put(before.at)}, {made.put(before.run_id)})")
    order = f"order by {at} desc, {'t.run_id' if asked.tag is not None else 'r.run_id'} desc limit {size}"
    lane = f"select r.run_id, {at} as at from {source} where {' and '.join(made.conditions)} {order}"
    if not lanes:
        return lane, made.arguments
    lateral = f"select x.run_id, x.at from {' cross join '.join(lanes)} cross join lateral ({lane}) x"
    return f"{lateral} order by x.at desc, x.run_id desc limit {size}", made.arguments


def failures(
    cluster: str,
    namespaces: Sequence[str],
    asked: RunFilter,
    before: Position | None,
    *,
    window: int,
    limit: int,
) -> tuple[str, Sequence[object]]:
    """The query for at most `limit` hits (run_id, at, hit) among the newest `window` runs that ended badly.

    No index tells where a text is within another; so each page looks through so many rows at most. The last row of a
    full window comes too, hit or not: the next page begins there.
    """
    made = Statement()
    size = made.put(window)
    spaces = made.put(list(namespaces))
    states = made.put([state for state in FAILING if not asked.states or state in asked.states])
    lane = Statement(["r.namespace = n.namespace", "r.state = s.state"], made.arguments)
    lane.where("r.cluster = {}", cluster)
    if before:
        lane.conditions.append(f"(r.created_at, r.run_id) < ({made.put(before.at)}, {made.put(before.run_id)})")
    hit = Statement([], made.arguments)
    _common(hit, cluster, asked)
    if asked.tag is not None:
        hit.where("{} = any(r.tags)", asked.tag)
    hit.where("strpos(lower(concat(r.reason, ' ', r.message)), lower({})) > 0", asked.error)
    query = (
        "select w.run_id, w.at, w.hit, w.place from ("
        "  select x.*, row_number() over (order by x.at desc, x.run_id desc) as place"
        f"  from unnest({spaces}::text[]) n (namespace) cross join unnest({states}::text[]) s (state)"
        "  cross join lateral ("
        f"    select r.run_id, r.created_at as at, {' and '.join(hit.conditions)} as hit from runs r"
        f"    where {' and '.join(lane.conditions)} order by r.created_at desc, r.run_id desc limit {size}) x"
        f"  order by x.at desc, x.run_id desc limit {size}) w"
        f" where w.hit or w.place = {size} order by w.at desc, w.run_id desc limit {made.put(limit)}"
    )
    return query, made.arguments


def dead_letters(
    cluster: str,
    namespace: str,
    asked: RunFilter,
    before: Position | None,
    limit: int,
) -> tuple[str, Sequence[object]]:
    """The query for (run_id, at) of dead letters, newest first."""
    made = Statement(["r.dead_lettered"])
    _common(made, cluster, asked)
    made.where("r.namespace = {}", namespace)
    if asked.tag is not None:
        made.where("{} = any(r.tags)", asked.tag)
    if asked.error is not None:
        made.where("strpos(lower(concat(r.reason, ' ', r.message)), lower({})) > 0", asked.error)
    if before:
        made.conditions.append(f"(r.dead_lettered_at, r.run_id) < ({made.put(before.at)}, {made.put(before.run_id)})")
    query = (
        f"select r.run_id, r.dead_lettered_at as at from runs r where {' and '.join(made.conditions)}"
        f" order by r.dead_lettered_at desc, r.run_id desc limit {made.put(limit)}"
    )
    return query, made.arguments


def _in_order_of_states(asked: RunFilter) -> bool:
    """Nothing else picks the index to go by: each state is a page of its own."""
    others = (asked.task, asked.queue, asked.tag, asked.key, asked.idempotency_key)
    return not asked.by_finish and all(one is None for one in others)


def _source(made: Statement, asked: RunFilter) -> tuple[str, str]:
    """Table expression and the column that the page is in order of."""
    if asked.tag is None:
        return "runs r", "r.finished_at" if asked.by_finish else "r.created_at"
    made.where("t.tag = {}", asked.tag)
    made.conditions += ["t.cluster = r.cluster", "t.namespace = r.namespace", "t.run_id = r.run_id"]
    return "run_tags t join runs r on true", "r.finished_at" if asked.by_finish else "t.created_at"


def _common(made: Statement, cluster: str, asked: RunFilter) -> None:
    made.where("r.cluster = {}", cluster)
    made.where("r.task = {}", asked.task)
    made.where("r.queue = {}", asked.queue)
    if asked.key is not None:
        made.conditions.append("r.concurrency_key <> ''")
        made.where("r.concurrency_key = {}", asked.key)
    made.where("r.idempotency_key = {}", asked.idempotency_key)
    made.where("r.created_at >= {}", asked.created_after)
    made.where("r.created_at < {}", asked.created_before)
    made.where("r.finished_at >= {}", asked.finished_after)
    made.where("r.finished_at < {}", asked.finished_before)
    if asked.min_seconds is not None or asked.max_seconds is not None:
        made.conditions.append("r.finished_at is not null")
    made.where("r.finished_at - r.started_at >= make_interval(secs => {})", asked.min_seconds)
    made.where("r.finished_at - r.started_at <= make_interval(secs => {})", asked.max_seconds)
