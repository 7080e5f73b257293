"""From `helm install` on a cluster that has the images to the end of the first Run (the chart's own test)."""

import time
from collections.abc import Sequence

from e2e.bench.bars import Bar
from e2e.harness.lab import Lab

TARGET = 60.0  # seconds


def measure(lab: Lab) -> Sequence[Bar]:
    """Remove the release with its data, install it anew, and run `helm test`."""
    lab.release.uninstall()
    begun = time.monotonic()
    lab.release.install()
    installed = time.monotonic() - begun
    lab.release.test()
    total = time.monotonic() - begun
    return [Bar("install_ready", installed, "s"), Bar("install_to_first_run", total, "s", TARGET)]
