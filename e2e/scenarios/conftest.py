"""One cluster, one release and one counting Service for all scenarios; a namespace for each."""

import os
import re
import uuid
from collections import Counter as Tally
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from e2e.cluster.capabilities import Capability, lacking
from e2e.cluster.shell import locked
from e2e.harness.counter import Counter
from e2e.harness.faults import Nodes
from e2e.harness.invariants import Invariants
from e2e.harness.lab import Lab
from e2e.harness.platform import Platform
from e2e.harness.release import Release, values_for
from e2e.images.build import BuiltImage

LACKS = "the cluster lacks"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep those that share a namespace with one worker; the others go to whichever is free."""
    for item in items:
        if "shared_lab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """The cluster; in the end not one packet of it may have left the machine."""
    made = Platform.bring_up()
    before = made.cluster.escaped_packets()
    yield made
    assert made.cluster.escaped_packets() == before


@pytest.fixture(autouse=True)
def needed(request: pytest.FixtureRequest) -> None:
    """Leave out a test that `needs` what the cluster lacks."""
    wanted = [name for marker in request.node.iter_markers("needs") for name in marker.args]
    if wanted:
        skip_without(request.getfixturevalue("platform"), *wanted)


def skip_without(platform: Platform, *wanted: str) -> None:
    """Skip the test that runs, and say which capability it misses."""
    if missing := lacking(wanted, platform.cluster.capabilities):
        pytest.skip(f"{LACKS} {', '.join(missing)}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were left out for each capability."""
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", [])]
    left_out = Tally(reason.partition(LACKS)[2].strip() for reason in reasons if LACKS in reason)
    for missing, count in sorted(left_out.items()):
        terminalreporter.write_line(f"left out, since the cluster lacks {missing}: {count}")


@pytest.fixture(scope="session")
def images(platform: Platform) -> Mapping[str, BuiltImage]:
    return platform.images()


@pytest.fixture(scope="session")
def release(platform: Platform, images: Mapping[str, BuiltImage], tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The chart, installed or upgraded by the worker that comes first; MILEPOST_E2E_FRESH=1: with an empty database."""
    made = Release(platform, values_for(images))
    with only_once(tmp_path_factory, "release") as first:
        if first and os.environ.get("MILEPOST_E2E_FRESH") == "1":
            made.uninstall()
        if first:
            made.install()
    return made


@contextmanager
def only_once(tmp_path_factory: pytest.TempPathFactory, what: str) -> Iterator[bool]:
    """Tell whether `what` is ours to do: one worker of the session does it, the others wait until it is done."""
    own = tmp_path_factory.getbasetemp()
    done = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / f"{what}-done"
    with locked(done.with_suffix(".lock"), f"the {what}"):
        yield not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def counter(platform: Platform, images: Mapping[str, BuiltImage], tmp_path_factory: pytest.TempPathFactory) -> Counter:
    """Deployed by one worker at a time: of two that create an object at once, one would be refused."""
    with only_once(tmp_path_factory, "counter"):
        return Counter.deploy(platform, images["control-plane"].ref)


@pytest.fixture
def nodes(platform: Platform) -> Nodes:
    """Signals to processes on nodes: not to be had on a cluster that somebody else runs."""
    skip_without(platform, Capability.NODE_ACCESS)
    return Nodes(platform)


@pytest.fixture
def lab(request: pytest.FixtureRequest, platform: Platform, release: Release, counter: Counter) -> Iterator[Lab]:
    """A namespace named after the test; the invariants are checked when the test is over."""
    opened = _open(str(request.node.name), platform, release, counter)
    yield opened
    Invariants(opened.sql).check()
    _close(opened)


@pytest.fixture(scope="module")
def shared_lab(request: pytest.FixtureRequest, platform: Platform, release: Release, counter: Counter) -> Iterator[Lab]:
    """One namespace for the cases of a module, which then can run side by side."""
    opened = _open(str(request.node.name), platform, release, counter)
    yield opened
    Invariants(opened.sql).check()
    _close(opened)


def _open(name: str, platform: Platform, release: Release, counter: Counter) -> Lab:
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower().rpartition("/")[2].removeprefix("test_").removesuffix(".py"))
    return Lab.open(platform, release, counter, f"{plain[:40].strip('-')}-{uuid.uuid4().hex[:5]}")


def _close(lab: Lab) -> None:
    lab.kubectl.delete("namespace", lab.namespace, None, "--wait=false")
