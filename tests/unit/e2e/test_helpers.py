"""Pure parts of the harness, the benchmarks and the examples."""

import json

import pytest
import yaml

from e2e.bench.arrivals import moments
from e2e.bench.bars import Bar, percentile
from e2e.harness.invariants import combined, limits, queries
from e2e.harness.kubectl import dig, stream
from e2e.harness.lab import run_manifest, task_manifest
from e2e.harness.platform import ROOT
from e2e.harness.release import merged
from e2e.harness.sql import literal
from e2e.harness.wait import WaitedTooLongError, eventually


def test_bars_say_whether_they_are_met():
    assert Bar("step_p50", 1.2345, "ms", 1.5).line() == "bar step_p50 1.234 ms 1.5 ok"
    assert Bar("step_p99", 7.0, "ms", 6.0).line() == "bar step_p99 7 ms 6 short"
    assert Bar("all_writes", 9.0, "writes/run").line() == "bar all_writes 9 writes/run - ok"


def test_percentiles_are_values_that_were_measured():
    values = [float(n) for n in range(1, 31)]
    assert (percentile(values, 50), percentile(values, 95), percentile(values, 100)) == (15.0, 29.0, 30.0)
    assert percentile([4.0], 50) == 4.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_arrivals_are_random_and_the_same_for_a_seed():
    came = list(moments(20.0, 2000, seed=3))
    assert came == list(moments(20.0, 2000, seed=3)) != list(moments(20.0, 2000, seed=4))
    assert came[0] == 0.0
    assert came == sorted(came)
    assert 90 < came[-1] < 110, "20 a second"


def test_invariants_become_one_query():
    one = "-- name: one\n-- why\nselect count(*) from a where c = $1;\n"
    text = f"{one}\n-- name: two\nselect count(*) from b where s > $2;\n"
    assert combined(text, "'it''s'", "86400") == (
        "select 'one' as name, (select count(*) from a where c = 'it''s') as broken\nunion all\n"
        "select 'two' as name, (select count(*) from b where s > 86400) as broken"
    )


def test_every_parameter_of_the_invariants_is_given():
    assert "$" not in combined(queries(), literal("default"), *limits())


def test_values_merge_as_helm_merges_them():
    base = {"settings": {"a": 1, "b": 2}, "x": [1]}
    assert merged(base, {"settings": {"b": 3}, "x": [2]}) == {"settings": {"a": 1, "b": 3}, "x": [2]}
    assert base["settings"] == {"a": 1, "b": 2}


def test_digging_ends_in_none_where_the_path_does():
    value = {"a": [{"b": 1}]}
    assert dig(value, "a", 0, "b") == 1
    assert dig(value, "a", 1, "b") is None
    assert dig(value, "a", "b") is None
    assert dig(None, "a") is None


def test_manifests():
    assert task_manifest("t", "code", queue="q")["spec"]["source"] == {"inline": "code"}
    assert "source" not in task_manifest("t", "code", image="i")["spec"]
    assert run_manifest("t", "r", {"n": 1})["spec"] == {"task": "t", "input": {"n": 1}}
    assert [json.loads(line) for line in stream([{"a": 1}, {"b": 2}]).splitlines()] == [{"a": 1}, {"b": 2}]


def test_sql_literals_are_quoted():
    assert literal("it's") == "'it''s'"


def test_waiting_gives_what_was_found_or_tells_the_state():
    found = iter([None, 0, "here"])
    assert eventually("it", lambda: next(found), timeout=5, interval=0.001) == "here"
    with pytest.raises(WaitedTooLongError, match=r"in vain for the moon(.|\n)*cloudy"):
        eventually("the moon", lambda: False, timeout=0.01, interval=0.001, diagnose=lambda: "cloudy")


def test_the_quick_start_has_the_example_itself_inline():
    example = ROOT / "examples/stdlib-index"
    task = yaml.safe_load((example / "task-inline.yaml").read_text())
    assert task["spec"]["source"]["inline"] == (example / "task.py").read_text()
