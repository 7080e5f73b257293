"""Starts of a cluster that a test disturbs, and what tests have in common that take the machine's cluster down."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DESTRUCTIVE = [
    pytest.mark.cluster,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.environ.get("MILEPOST_E2E_LIFECYCLE") != "1", reason="set MILEPOST_E2E_LIFECYCLE=1"),
]


def start(provider: str, *, stderr: int | None = None, **env: str) -> "subprocess.Popen[str]":
    """Start a cluster in a process of its own. `stderr`: subprocess.PIPE to read what it says."""
    given = os.environ | {"MILEPOST_PROVIDER": provider, **env}
    command = [sys.executable, "-m", "e2e.cluster", "up"]
    return subprocess.Popen(command, cwd=ROOT, env=given, stderr=stderr, text=True)
