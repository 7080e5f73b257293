"""Every request is authenticated before it is routed: a path that nobody thought of needs a token too."""

from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from milepost.wire.pod import PREFIX
from milepost_operator.api.sessions import Claims, Sessions
from milepost_operator.api.tokens import ApiTokens, Caller
from milepost_operator.domain.errors import UnauthenticatedError
from milepost_operator.domain.runs import PodSession

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/openapi.json"})
SESSION_PATH: Final = f"{PREFIX}/session"
_KEY: Final = "milepost.principal"


class Authentication:
    """ASGI middleware: `/pod/v1/session` needs some bearer token (its handler has it reviewed by Kubernetes), the rest
    of `/pod/v1` a session token, everything else but OPEN_PATHS a token of the public API.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions, tokens: ApiTokens) -> None:
        self._app = app
        self._sessions = sessions
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            raise UnauthenticatedError("no web sockets here")
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            scope[_KEY] = self._principal(scope)
        await self._app(scope, receive, send)

    def _principal(self, scope: Scope) -> str | Claims | Caller:
        token = _bearer(scope)
        if scope["path"] == SESSION_PATH:
            return token
        if scope["path"].startswith(f"{PREFIX}/"):
            return self._sessions.verify(token)
        return self._tokens.caller(token)


def bearer_of(request: Request) -> str:
    """The raw token of a session request."""
    token = request.scope.get(_KEY)
    if not isinstance(token, str):
        raise UnauthenticatedError("this route needs a ServiceAccount token")
    return token


def session_of(request: Request) -> PodSession:
    """The pod whose sidecar calls."""
    claims = request.scope.get(_KEY)
    if not isinstance(claims, Claims):
        raise UnauthenticatedError("this route needs a session token")
    return claims.session


def caller_of(request: Request) -> Caller:
    """The user of the public API."""
    caller = request.scope.get(_KEY)
    if not isinstance(caller, Caller):
        raise UnauthenticatedError("this route needs an API token")
    return caller


def _bearer(scope: Scope) -> str:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        raise UnauthenticatedError("send one header Authorization: Bearer <token>")
    header: str = values[0].decode("latin-1")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or token.split() != [token]:
        raise UnauthenticatedError("send one header Authorization: Bearer <token>")
    return token
