"""The little of a Kubernetes API that the api process asks: TokenReview."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from milepost.wire.pod import AUDIENCE
from milepost_operator.adapters.kube.tokenreview import PATH
from milepost_operator.api.server import Listener, listening_socket
from tests.chaos.config import NAMESPACE

PREFIX = "token-of-"


def pod_uid(pod_id: str) -> str:
    return f"uid-{pod_id}"


def pod_name(pod_id: str) -> str:
    return f"mp-{pod_id}-chaos"


async def _review(request: Request) -> JSONResponse:
    token = (await request.json())["spec"]["token"]
    if not token.startswith(PREFIX):
        return JSONResponse({"status": {"authenticated": False}}, 201)
    pod_id = token.removeprefix(PREFIX)
    extra = {
        "authentication.kubernetes.io/pod-name": [pod_name(pod_id)],
        "authentication.kubernetes.io/pod-uid": [pod_uid(pod_id)],
    }
    user = {"username": f"system:serviceaccount:{NAMESPACE}:default", "extra": extra}
    return JSONResponse({"status": {"authenticated": True, "audiences": [AUDIENCE], "user": user}}, 201)


@contextlib.asynccontextmanager
async def token_reviews(home: Path) -> AsyncIterator[Path]:
    """Serve them on the loopback interface; yields a kubeconfig."""
    listener = Listener(Starlette(routes=[Route(PATH, _review, methods=["POST"])]), 0)
    socket = listening_socket(0)
    serving = asyncio.create_task(listener.serve([socket]))
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{socket.getsockname()[1]}"}}],
        "users": [{"name": "u", "user": {"token": "unused"}}],
    }
    path = home / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    try:
        yield path
    finally:
        listener.should_exit = True
        await serving
