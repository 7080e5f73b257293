"""What `from milepost import …` brings with it: little, since every task's process pays for it."""

import json
import subprocess
import sys

RARE = (
    "pydantic", "yaml", "http.client", "urllib.request", "milepost.wire.pod", "milepost.schema", "milepost.sdk.hooks",
    "milepost.sdk.retry", "milepost.sdk.again", "milepost.runner", "milepost.sidecar", "milepost.testing",
)  # fmt: skip
PROGRAM = """
import json, sys
from milepost import Context, SyncContext, step, task
print(json.dumps([*sys.modules]))
"""


def test_rare_parts_are_imported_when_they_are_needed():
    loaded = json.loads(subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True).stdout)
    assert [name for name in RARE if name in loaded] == []


def test_the_parent_of_a_tasks_processes_leaves_the_pod_protocol_out():
    program = "import json, sys; import milepost.runner.parent; print(json.dumps([*sys.modules]))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)
    assert "milepost.wire.pod" not in loaded
