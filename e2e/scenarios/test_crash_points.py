"""A sample of the crash points of tests/crashpoints, in pods: a task's process dies at one of its writes, or at two.

`MILEPOST_CRASH_SEED` draws others, `MILEPOST_CRASH_RUNS` more.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest

from e2e.harness.counter import URL
from e2e.harness.kubectl import objects
from e2e.harness.lab import ENDED, Lab, run_manifest, wait_all
from e2e.harness.platform import ROOT
from e2e.harness.sql import literal
from e2e.images.build import BuiltImage

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

SEED = os.environ.get("MILEPOST_CRASH_SEED", "1")
RUNS = os.environ.get("MILEPOST_CRASH_RUNS", "10")
AT_ONCE = 4


def sample(*words: str, text_in: str | None = None) -> str:
    """Ask for runs, or for the faults of runs. A process of its own: its tasks come with a watch on every write."""
    command = [sys.executable, "-m", "tests.crashpoints.sample", *words]
    done = subprocess.run(command, cwd=ROOT, input=text_in, capture_output=True, text=True, timeout=60, check=False)
    if done.stderr:
        raise AssertionError(done.stderr)
    return done.stdout


def test_processes_die_at_their_writes(lab: Lab, images: Mapping[str, BuiltImage]) -> None:
    """Each run has the result and the records of the undisturbed one, and what was acknowledged never ran again."""
    assert images
    image = lab.platform.task_image(ROOT / "tests/crashpoints", "crash-points")
    retry = {"maxAttempts": 9, "minSeconds": 0, "maxSeconds": 0}
    for name in ("main", "plain"):
        entrypoint = f"tests.crashpoints.tasks:{name}"
        lab.task(name, image=image.ref, entrypoint=entrypoint, retry=retry, concurrency=AT_ONCE)
    drawn = objects(json.loads(sample("draw", "--seed", SEED, "--runs", RUNS)))
    manifests = [
        run_manifest(str(case["task"]), f"crash-{n:02}", {"shape": case["shape"], "notes": URL, "kills": case["kills"]})
        for n, case in enumerate(drawn)
    ]
    runs = lab.runs(*lab.kubectl.create(*manifests, namespace=lab.namespace))
    wait_all(runs, lambda state: state in ENDED, 180)
    came = [case | found for case, found in zip(drawn, outcomes(lab), strict=True)]
    broken = sample("judge", text_in=json.dumps(came))
    assert not broken, f"seed {SEED}:\n{broken}\n{json.dumps(came, indent=1)[:20000]}"


RECORD = "json_build_object('kind', kind, 'key', key, 'value', value, 'failed', failed) order by seq"
OUTCOMES = f"""
select run_id, state, result, (select count(*) from attempts a where a.run_id = r.run_id) attempts,
  (select coalesce(json_agg({RECORD}), '[]'::json) from record_values c where c.run_id = r.run_id) records
from runs r where namespace = {{}} order by name
"""


def outcomes(lab: Lab) -> Iterator[dict[str, object]]:
    """What became of each run, in the order of their names: its row, its records and what its processes noted."""
    for row in lab.sql.rows(OUTCOMES.format(literal(lab.namespace))):
        records = objects(row["records"])
        yield {
            "state": row["state"],
            "result": row["result"],
            "attempts": row["attempts"],
            "steps": {str(one["key"]): [one["value"], one["failed"]] for one in records if one["kind"] == "step"},
            "checkpoints": {str(one["key"]): one["value"] for one in records if one["kind"] == "checkpoint"},
            "notes": [event.step for event in lab.counter.events(str(row["run_id"]))],
        }
