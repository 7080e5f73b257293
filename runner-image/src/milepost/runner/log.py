"""The runner's own words on stderr, among the task's output: few, one line each."""

import sys


def say(text: str) -> None:
    """Write one line."""
    sys.stderr.write(f"milepost: {text}\n")
    sys.stderr.flush()
