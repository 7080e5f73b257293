"""What importing costs over `import asyncio`: new processes, their byte code compiled before, as it is in images."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.bench.bars import Bar

TIMES = 15
TARGET_MS = 25.0
OURS = "from milepost import Context, step, task"
THEIRS = {
    "dbos": "from dbos import DBOS",
    "absurd": "from absurd_sdk import AsyncAbsurd",
    "restate": "import restate",
}
PROGRAM = """
import time
{}
begun = time.perf_counter()
{}
print(time.perf_counter() - begun)
"""


def milliseconds(python: str | Path, statement: str, over: str = "import asyncio") -> float:
    """The quickest of some processes: what others do on the machine only adds to it."""
    command = [python, "-c", PROGRAM.format(over, statement)]
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as compiled:
        env = with_byte_code(os.environ, Path(compiled))
        done = [
            subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout for _ in range(TIMES)
        ]
    return min(map(float, done)) * 1000


def with_byte_code(env: Mapping[str, str], place: Path) -> dict[str, str]:
    """An environment in which modules are compiled once, into `place`, whatever it said before."""
    return {k: v for k, v in env.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": str(place)}


def measure() -> Sequence[Bar]:
    ours = milliseconds(sys.executable, OURS)
    of_asyncio = milliseconds(sys.executable, "import asyncio", "")
    return [Bar("import", ours, "ms", TARGET_MS), Bar("import_to_that_of_asyncio", ours / of_asyncio, "ratio")]
