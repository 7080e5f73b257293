"""The examples' Tasks say what their code says, as `milepost manifest --check` tells."""

import os
import subprocess
import sys

import pytest

from tests.examples import EXAMPLES


@pytest.mark.parametrize("example", ["support-agent", "timezone-etl"])
def test_the_task_is_that_of_the_code(example: str):
    command = [sys.executable, "-m", "milepost", "manifest", "task", "--check", "task.yaml"]
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=EXAMPLES / example, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
