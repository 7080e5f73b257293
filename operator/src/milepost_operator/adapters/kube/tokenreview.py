"""Who holds a projected ServiceAccount token: Kubernetes says (TokenReview), for our audience only."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from milepost.wire.pod import AUDIENCE
from milepost_operator.adapters.kube.client import KubeClient, KubeError, KubeUnavailable
from milepost_operator.domain.errors import UnauthenticatedError, UnavailableError
from milepost_operator.obs.logging import get_logger

PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
CACHE_SECONDS: Final = 30.0
CACHE_SIZE: Final = 2048
TIMEOUT_SECONDS: Final = 3.0
MAX_TOKEN_CHARS: Final = 16_384

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod that a token is bound to, as Kubernetes vouches for it."""

    namespace: str
    service_account: str
    pod_name: str
    pod_uid: str


class TokenReviewer:
    """Positive answers are kept for 30 s by the token's SHA-256; a refusal is never kept."""

    def __init__(self, kube: KubeClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, PodIdentity]] = OrderedDict()

    async def identify(self, token: str) -> PodIdentity:
        """Raise UnauthenticatedError for a token that isn't a pod's for us, UnavailableError when none can tell."""
        if len(token) > MAX_TOKEN_CHARS:
            raise UnauthenticatedError("the token is too long to be a ServiceAccount token")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and known[0] > self._clock():
            return known[1]
        identity = _identity(await self._review(token))
        self._known[digest] = (self._clock() + CACHE_SECONDS, identity)
        self._known.move_to_end(digest)
        while len(self._known) > CACHE_SIZE:
            self._known.popitem(last=False)
        return identity

    async def _review(self, token: str) -> Mapping[str, Any]:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        try:
            answer = await self._kube.create(PATH, body, timeout=TIMEOUT_SECONDS)
        except KubeUnavailable as error:
            raise UnavailableError("Kubernetes can't review tokens now", error.retry_after_seconds) from error
        except KubeError as error:  # our own rights or configuration: no fault of the caller's token
            _log.error("token_review_refused", error=str(error))
            raise UnavailableError("Kubernetes refuses us a TokenReview") from error
        status = answer.get("status")
        return status if isinstance(status, Mapping) else {}


def _identity(status: Mapping[str, Any]) -> PodIdentity:
    if status.get("authenticated") is not True or AUDIENCE not in (status.get("audiences") or ()):
        raise UnauthenticatedError(f"Kubernetes does not know this token for the audience {AUDIENCE!r}")
    user = status.get("user") or {}
    parts = str(user.get("username", "")).split(":")
    extra = user.get("extra") or {}
    name = extra.get("authentication.kubernetes.io/pod-name")
    uid = extra.get("authentication.kubernetes.io/pod-uid")
    match parts, name, uid:
        case ["system", "serviceaccount", namespace, account], [str(pod_name)], [str(pod_uid)]:
            return PodIdentity(namespace, account, pod_name, pod_uid)
    raise UnauthenticatedError("the token is no pod's ServiceAccount token")
