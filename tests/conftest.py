"""What the tests of all directories share: an API server, and the seed of what is made up."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from e2e.cluster.binaries import kube_programs, versitygw_program
from tests import apiserver
from tests.seeds import EXPLORE, SEED

# structlog's own way shows all locals of each frame: seconds of a busy machine for each error that a test provokes
structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])
os.environ["MILEPOST_TEST_SEED"] = str(SEED)  # the workers of a session have the same
# A busy machine is no bug in the code under test: examples are bounded in number, not in time.
settings.register_profile("milepost", deadline=None, derandomize=not EXPLORE)
settings.load_profile("milepost")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was drawn, also when no output of a test is shown."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name}: {value}")
    terminalreporter.write_line(f"seed {SEED} (MILEPOST_TEST_SEED={SEED} repeats it)")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what is not cached before the first test: it takes minutes, and a test has seconds."""
    if session.config.option.collectonly:
        return
    used = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for fixture, build in (("kubeconfig", kube_programs), ("object_storage", versitygw_program)):
            if fixture in used:
                build()


@pytest.fixture(scope="session")
def kubeconfig() -> Iterator[Path]:
    """Of an API server of this session's own, without nodes and controllers."""
    with apiserver.running() as path:
        yield path


@pytest.fixture(scope="session")
def crds(kubeconfig: Path) -> None:
    """Our kinds are served there."""
    asyncio.run(apiserver.install_crds(kubeconfig))
