"""The seed of what is made up here: shown at the head of a session, taken from SEED to see a failure again."""

import os
import secrets

SEED = int(os.environ.get("SEED") or secrets.randbelow(2**32))


def pytest_report_header() -> str:
    return f"contract seed: {SEED} (SEED={SEED} repeats it)"
