"""What the chart promises of itself."""

import pytest

from e2e.cluster.capabilities import Capability
from e2e.harness.release import Release

pytestmark = pytest.mark.cluster


def test_helm_test(release: Release) -> None:
    """`helm test` runs a task of its own to success, and says whether NetworkPolicies hold."""
    held = Capability.NETWORK_POLICY in release.platform.cluster.capabilities
    assert ("the API server is closed to tasks" if held else "does not enforce NetworkPolicies") in release.test()
