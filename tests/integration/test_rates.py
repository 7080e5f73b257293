"""The SQL of rate limits does what `tests.rates` says, whatever the times, costs and changes."""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from milepost_operator.adapters.postgres.intake import rate_json
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Rate
from tests import rates

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP = """
with now_ as (select rate_at($1::jsonb, $2::rate_state, $3::timestamptz) as state)
select state, rate_free($1::jsonb, state) as free, rate_cost($1::jsonb, $4) as cost,
       rate_next($1::jsonb, state, $4) as next, rate_take(state, rate_cost($1::jsonb, $4)) as taken
from now_
"""


def rate_of(text: str | None) -> Rate | None:
    """The column `queues.rate` or `key_rate`."""
    if text is None:
        return None
    found = orjson.loads(text)
    return Rate(found["limit"], found["periodSeconds"], found.get("algorithm") or "window", found.get("burst"))


def rate_state(value: Any) -> rates.RateState | None:
    """The column `queue_states.rate` or `queue_keys.rate`."""
    if value is None or value["counts"] is None:
        return None
    return rates.RateState(value["at"], value["seconds"], tuple(value["counts"]), value["tokens"])


@pytest.mark.parametrize("seed", range(6))
async def test_the_sql_of_rates_follows_the_model(store: PostgresStore, seed: int) -> None:
    rng = random.Random(seed)
    rate = Rate(rng.randint(1, 12), rng.randint(1, 90), rng.choice(["window", "bucket"]), None)
    raw, state, now = None, None, START
    for _ in range(60):
        now += timedelta(microseconds=rng.randint(-2_000_000, 20_000_000))
        if rng.random() < 0.05:
            rate = Rate(rng.randint(1, 12), rng.randint(1, 90), rng.choice(["window", "bucket"]), None)
            if rate.algorithm == "bucket" and rng.random() < 0.5:
                rate = Rate(rate.limit, rate.period_seconds, "bucket", rng.randint(1, 20))
        cost = rng.randint(1, 15)
        text = rate_json(rate)
        assert rate_of(text) == rate
        (row,) = await store._db.fetch(STEP, text, raw, now, cost)
        expected = rates.at(rate, state, now)
        got = rate_state(row["state"])
        assert got is not None
        assert (got.at, got.seconds, tuple(got.counts)) == (expected.at, expected.seconds, tuple(expected.counts))
        assert got.tokens == pytest.approx(expected.tokens, abs=1e-6)
        assert row["free"] == rates.free(rate, got)
        assert row["cost"] == rates.counted(rate, cost)
        following = rates.next_token_at(rate, got, now, cost)
        assert abs(row["next"] - following) < timedelta(milliseconds=1), json.loads(text or "")
        raw, state = row["state"], got
        if row["cost"] <= row["free"]:
            raw = row["taken"]
            state = rates.take(got, row["cost"])
            assert rate_state(raw) == state
