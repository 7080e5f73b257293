import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from milepost_operator.adapters.kube import tokenreview
from milepost_operator.adapters.kube.client import KubeClient, KubeForbidden, KubeUnavailable
from milepost_operator.adapters.kube.config import KubeConfig
from milepost_operator.adapters.kube.tokenreview import PodIdentity, TokenReviewer
from milepost_operator.domain.errors import UnauthenticatedError, UnavailableError


def status(**changes: object) -> dict[str, object]:
    extra = {"authentication.kubernetes.io/pod-name": ["mp-a-x"], "authentication.kubernetes.io/pod-uid": ["u1"]}
    user = {"username": "system:serviceaccount:team:default", "extra": extra}
    return {"authenticated": True, "audiences": ["milepost"], "user": user} | changes


class Kube(KubeClient):
    def __init__(self, answer: object) -> None:
        super().__init__(KubeConfig("http://unused", None))
        self.answer = answer
        self.bodies: list[Mapping[str, Any]] = []

    async def create(self, path, body, params=None, *, timeout=None):  # noqa: ARG002, ASYNC109
        assert path == "/apis/authentication.k8s.io/v1/tokenreviews"
        assert timeout == 3
        self.bodies.append(body)
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"status": self.answer}


async def test_a_pods_token_tells_its_pod_and_is_asked_once_in_30_seconds() -> None:
    kube, now = Kube(status()), 0.0
    reviewer = TokenReviewer(kube, lambda: now)
    expected = PodIdentity("team", "default", "mp-a-x", "u1")
    assert await reviewer.identify("t") == await reviewer.identify("t") == expected
    assert len(kube.bodies) == 1
    assert kube.bodies[0]["spec"] == {"token": "t", "audiences": ["milepost"]}
    now = 30.0
    await reviewer.identify("t")
    assert len(kube.bodies) == 2


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"error": "invalid"},
        status(authenticated=False),
        status(authenticated="true"),
        status(audiences=["https://kubernetes.default.svc"]),
        status(audiences=None),
        status(user={"username": "system:serviceaccount:team:default"}),
        status(user={"username": "alice", "extra": status()["user"]["extra"]}),  # type: ignore[index]
        status(user=None),
    ],
)
async def test_anything_but_a_pods_token_for_us_is_refused_and_not_remembered(answer: object) -> None:
    kube = Kube(answer)
    reviewer = TokenReviewer(kube)
    for _ in range(2):
        with pytest.raises(UnauthenticatedError):
            await reviewer.identify("t")
    assert len(kube.bodies) == 2


@pytest.mark.parametrize("error", [KubeUnavailable(0, "NoAnswer", "x", 2.0), KubeForbidden(403, "Forbidden", "x")])
async def test_no_judgement_is_no_refusal(error: Exception) -> None:
    with pytest.raises(UnavailableError):
        await TokenReviewer(Kube(error)).identify("t")


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenreview, "CACHE_SIZE", 10)
    kube = Kube(status())
    reviewer = TokenReviewer(kube)
    await asyncio.gather(*(reviewer.identify(f"t{i}") for i in range(25)))
    assert len(reviewer._known) == 10
    with pytest.raises(UnauthenticatedError):
        await reviewer.identify("x" * 20_000)
