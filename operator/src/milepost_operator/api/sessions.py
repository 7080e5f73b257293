"""Session tokens of sidecars: `mps1.<payload>.<mac>`, signed by a key that all replicas share; nothing is stored."""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from milepost_operator.domain.errors import UnauthenticatedError
from milepost_operator.domain.runs import PodSession

TTL_SECONDS: Final = 900
MIN_KEY_BYTES: Final = 32
MAX_KNOWN: Final = 4096
TOKEN_PREFIX: Final = "mps1."  # noqa: S105


class KeyFileError(ValueError):
    """A file of keys or tokens can't be used; says which and why. The process must not start."""


def read_session_key(file: Path | None) -> bytes:
    """The shared signing key. Raises KeyFileError."""
    if file is None:
        raise KeyFileError("MILEPOST_SESSION_KEY_FILE is not set: a file with at least 32 random bytes")
    try:
        key = file.read_bytes()
    except OSError as error:
        raise KeyFileError(f"the session key file {file} can't be read: {error.strerror}") from error
    if len(key) < MIN_KEY_BYTES:
        raise KeyFileError(f"the session key file {file} has {len(key)} bytes; it needs at least {MIN_KEY_BYTES}")
    return key


@dataclass(frozen=True, slots=True)
class Claims:
    """What a session token says. `pod_name` is there for renewals."""

    session: PodSession
    pod_name: str


class Sessions:
    """Signs and checks. `clock`: seconds since the epoch."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._key = key
        self._clock = clock
        self._known: dict[str, tuple[int, Claims]] = {}
        """Tokens that were found good, and until when: each comes with every record of its pod."""

    def sign(self, session: PodSession, pod_name: str) -> str:
        """A token for TTL_SECONDS."""
        claims = {
            "pod_id": session.pod_id,
            "namespace": session.namespace,
            "pod_uid": session.pod_uid,
            "pod_name": pod_name,
            "exp": int(self._clock()) + TTL_SECONDS,
        }
        payload = base64.urlsafe_b64encode(orjson.dumps(claims)).decode()
        return f"{TOKEN_PREFIX}{payload}.{self._mac(payload)}"

    def verify(self, token: str) -> Claims:
        """What the token says. UnauthenticatedError when it isn't ours or is over."""
        known = self._known.get(token)
        if known is None:
            known = self._check(token)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[token] = known
        expires, claims = known
        if expires <= self._clock():
            raise UnauthenticatedError("the session is over: ask for a new one")
        return claims

    def _check(self, token: str) -> tuple[int, Claims]:
        payload, _, mac = token.removeprefix(TOKEN_PREFIX).partition(".")
        if not token.startswith(TOKEN_PREFIX) or not hmac.compare_digest(mac.encode(), self._mac(payload).encode()):
            raise UnauthenticatedError("not a session token of ours")
        try:
            claims = orjson.loads(base64.urlsafe_b64decode(payload))
            session = PodSession(str(claims["pod_id"]), str(claims["namespace"]), str(claims["pod_uid"]))
            found = Claims(session, str(claims["pod_name"]))
            expires = int(claims["exp"])
        except (binascii.Error, ValueError, KeyError, TypeError) as error:
            raise UnauthenticatedError("not a session token of ours") from error
        return expires, found

    def derived(self, purpose: bytes) -> bytes:
        """A key for something else, of the same secret."""
        return hmac.digest(self._key, b"milepost-key:" + purpose, hashlib.sha256)

    def _mac(self, payload: str) -> str:
        digest = hmac.digest(self._key, b"milepost-session:" + payload.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode()
