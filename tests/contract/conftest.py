"""The databases of tests/integration, for what both kinds of store have to hold; and the seed of what is made up here:
shown at the head of a session, taken from SEED to see a failure again.
"""

import os
import secrets

from tests.integration.conftest import postgres_uri, settings, template

__all__ = ["SEED", "postgres_uri", "settings", "template"]

SEED = int(os.environ.get("SEED") or secrets.randbelow(2**32))


def pytest_report_header() -> str:
    return f"contract seed: {SEED} (SEED={SEED} repeats it)"
