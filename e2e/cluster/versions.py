"""Which Kubernetes a cluster made here is of: the newest, or the minor before it, chosen by its number."""

import os
from collections.abc import Mapping
from typing import Final

from e2e.cluster.shell import Problem

PINNED: Final = {"1.36": "1.36.3", "1.35": "1.35.4"}
NEWEST: Final = "1.36"


def chosen(env: Mapping[str, str] = os.environ) -> str:
    """The minor that MILEPOST_K8S names, the newest by default. Raises Problem for one that is not pinned here."""
    minor = env.get("MILEPOST_K8S") or NEWEST
    if minor not in PINNED:
        raise Problem(f"Kubernetes {minor} can't be built here: set K8S to {' or '.join(sorted(PINNED))}")
    return minor


def kubernetes(env: Mapping[str, str] = os.environ) -> str:
    """The chosen version in full, such as "1.36.3"."""
    return PINNED[chosen(env)]
