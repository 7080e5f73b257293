"""The public surface as pyright sees it, in the form that needs no download; mypy sees it in `make check`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
def test_the_public_surface():
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "-p", ROOT, "--pythonpath", sys.executable],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors, 0 warnings" in done.stdout
