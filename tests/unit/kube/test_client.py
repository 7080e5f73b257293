import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from milepost_operator.adapters.kube.client import (
    KubeClient,
    KubeConflict,
    KubeGone,
    KubeNotFound,
    KubeUnavailable,
)
from milepost_operator.adapters.kube.config import KubeConfig, KubeConfigError, from_kubeconfig

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler, token_file: Path | None = None) -> AsyncIterator[KubeClient]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with KubeClient(KubeConfig(f"http://127.0.0.1:{port}", None, token_file=token_file), timeout=2) as kube:
            yield kube
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [
        (404, "NotFound", KubeNotFound),
        (409, "AlreadyExists", KubeConflict),
        (410, "Expired", KubeGone),
        (429, "TooManyRequests", KubeUnavailable),
        (500, "InternalError", KubeUnavailable),
    ],
)
async def test_an_answer_becomes_the_error_that_it_means(status, reason, error):
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "reason": reason, "message": "why", "code": status}, status=status)

    async with served(handler) as kube:
        with pytest.raises(error) as caught:
            await kube.get("/api/v1/pods/a")
    assert (caught.value.status, caught.value.reason, caught.value.message) == (status, reason, "why")


async def test_retry_after_is_handed_on_and_html_of_a_proxy_is_no_crash():
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=503, text="<html>", headers={"Retry-After": "7"})

    async with served(handler) as kube:
        with pytest.raises(KubeUnavailable) as caught:
            await kube.create("/api/v1/pods", {})
    assert caught.value.retry_after_seconds == 7
    assert caught.value.message == "<html>"


async def test_no_answer_is_unavailable():
    async with KubeClient(KubeConfig("http://127.0.0.1:1", None)) as kube:
        with pytest.raises(KubeUnavailable):
            await kube.get("/")


async def test_bodies_and_content_types_arrive():
    seen: list[tuple[str, str | None, object]] = []

    async def handler(request: web.Request) -> web.Response:
        body = await request.read()
        seen.append((request.method, request.headers.get("Content-Type"), orjson.loads(body) if body else None))
        return web.json_response({"ok": True})

    async with served(handler) as kube:
        await kube.patch("/a", {"x": 1})
        await kube.create("/a", {"y": 2})
        assert await kube.delete("/a") == {"ok": True}
    assert seen[0] == ("PATCH", "application/merge-patch+json", {"x": 1})
    assert seen[1] == ("POST", "application/json", {"y": 2})
    assert seen[2][2] is None


async def test_a_rotated_token_is_read_again_after_a_401(tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("old\n")
    accepted = "old"

    async def handler(request: web.Request) -> web.Response:
        good = request.headers["Authorization"] == f"Bearer {accepted}"
        return web.json_response({"code": 401, "message": "no"}, status=200 if good else 401)

    async with served(handler, token) as kube:
        await kube.get("/")
        token.write_text("new\n")
        accepted = "new"
        await kube.get("/")


async def test_watch_yields_events_of_any_size_and_ends():
    big = "x" * 300_000

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.query["watch"] == "1"
        response = web.StreamResponse()
        await response.prepare(request)
        first = orjson.dumps({"type": "ADDED", "object": {"metadata": {"name": big}}}) + b"\n"
        await response.write(first[:100])
        await asyncio.sleep(0)
        await response.write(first[100:] + b'{"type":"DELETED","object":{}}\n{"type":"BOOKMARK",')
        await response.write(b'"object":{}}\n')
        return response

    async with served(handler) as kube:
        events = [event async for event in kube.watch("/api/v1/pods", {"labelSelector": "a=b"})]
    assert [event["type"] for event in events] == ["ADDED", "DELETED", "BOOKMARK"]
    assert events[0]["object"]["metadata"]["name"] == big


async def test_watch_raises_gone_for_an_expired_version():
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "old"}})

    async with served(handler) as kube:
        with pytest.raises(KubeGone):
            _ = [event async for event in kube.watch("/api/v1/pods")]


async def test_watch_says_when_the_connection_broke():
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"type":"ADDED","object":{}}\n')
        assert request.transport is not None
        request.transport.abort()
        return response

    async with served(handler) as kube:
        with pytest.raises(KubeUnavailable):
            _ = [event async for event in kube.watch("/api/v1/pods")]


def test_kubeconfig(tmp_path: Path):
    file = tmp_path / "config"
    file.write_text(
        "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n"
        "clusters: [{name: k, cluster: {server: 'http://localhost:8080/'}}]\nusers: [{name: u, user: {token: t}}]\n",
    )
    config = from_kubeconfig(file)
    assert (config.server, config.token) == ("http://localhost:8080", "t")


@pytest.mark.parametrize("text", ["", "[]", "current-context: x\ncontexts: []\n", ":\n  -"])
def test_an_unusable_kubeconfig_is_named(tmp_path: Path, text: str):
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(KubeConfigError, match="config"):
        from_kubeconfig(file)
