"""What the chart promises of itself."""

import pytest

from e2e.harness.release import Release

pytestmark = pytest.mark.cluster


def test_helm_test(release: Release) -> None:
    """`helm test` runs a task of its own to success, and says whether NetworkPolicies hold."""
    assert "the API server is closed to tasks" in release.test()
