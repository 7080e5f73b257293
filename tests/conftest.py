"""The API server that the tests of all directories share."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from e2e.cluster.binaries import kube_programs
from tests import apiserver

EXPLORE = os.environ.get("MILEPOST_EXPLORE") == "1"
"""Draw other examples each time. Without it a change is judged by the same ones as the change before it."""
# A busy machine is no bug in the code under test: examples are bounded in number, not in time.
settings.register_profile("milepost", deadline=None, derandomize=not EXPLORE)
settings.load_profile("milepost")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is not cached before the first test: it takes minutes, and a test has seconds."""
    if session.config.option.collectonly:
        return
    if any("kubeconfig" in getattr(item, "fixturenames", ()) for item in session.items):
        capture = session.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            kube_programs()


@pytest.fixture(scope="session")
def kubeconfig() -> Iterator[Path]:
    """Of an API server of this session's own, without nodes and controllers."""
    with apiserver.running() as path:
        yield path


@pytest.fixture(scope="session")
def crds(kubeconfig: Path) -> None:
    """Our kinds are served there."""
    asyncio.run(apiserver.install_crds(kubeconfig))
