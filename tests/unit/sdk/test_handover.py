"""The sidecar between two attempts, by itself."""

import asyncio
from types import SimpleNamespace

import pytest

from milepost.net.messages import ProblemError, Reply, TransportError
from milepost.sidecar import handover
from milepost.sidecar.checks import Asked
from milepost.sidecar.handover import HandOver
from milepost.sidecar.state import AttemptState


async def test_a_pod_does_not_wait_for_an_api_that_is_gone_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "LOST_SECONDS", 0.1)

    class Gone:
        """No connection can be made."""

        calls = None

        async def attempt(self, *_: object) -> Reply:
            raise TransportError("connection refused")

    tenure = SimpleNamespace(state=AttemptState())
    await tenure.state.stop("this pod has nothing to start")
    waiting = HandOver(Gone(), lambda: tenure, lambda _: asyncio.sleep(0))
    with pytest.raises(ProblemError) as over:
        await waiting.next(Asked("run-1", 1, None, 0))
    assert (over.value.status, "has not answered" in str(over.value)) == (410, True)
