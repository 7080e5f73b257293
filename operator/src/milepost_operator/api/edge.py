"""The outermost layer: every error becomes a problem, every request a measurement, nothing of ours leaks."""

import time
from collections.abc import Callable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milepost_operator.api.problems import problem, status_of
from milepost_operator.obs.logging import get_logger
from milepost_operator.obs.metrics import Metrics

_log = get_logger(__name__)
_INTERNAL = 500
_CLIENT_GONE = 499
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """ASGI middleware around everything else. `fixed`: paths that are route templates of their own."""

    def __init__(self, app: ASGIApp, metrics: Metrics, fixed: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._fixed = fixed
        self._timed: dict[tuple[str, str, int], Callable[[float], None]] = {}
        """What is told of a request's time, by its labels: looking one up in the metric takes as long as telling it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            status = _CLIENT_GONE
        except Exception as error:
            if status_of(error) == _INTERNAL:
                _log.exception("request_failed", method=scope["method"], route=self._route(scope))
            if status:
                raise  # the answer has begun: break the connection, so that nobody takes it for complete
            await problem(error)(scope, receive, watched)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._tell((method, self._route(scope), status or _CLIENT_GONE), time.perf_counter() - began)

    def _tell(self, labels: tuple[str, str, int], seconds: float) -> None:
        timed = self._timed.get(labels)
        if timed is None:
            timed = self._timed[labels] = self._metrics.http_seconds.labels(*labels).observe
        timed(seconds)

    def _route(self, scope: Scope) -> str:
        """The template, never the path that was asked for: a label has few values."""
        path: str = scope["path"]
        return path if path in self._fixed else str(getattr(scope.get("route"), "path", "unmatched"))
