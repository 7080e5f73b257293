"""Leader election by a Lease, as client-go does it: who holds it must renew it, and others judge by their own clock.

It decides who tries to lead. Safety is the epoch's: each launch is checked against it in Postgres.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from milepost_operator.adapters.kube.client import KubeClient, KubeConflict, KubeError, KubeNotFound
from milepost_operator.domain.errors import DeposedError, UnavailableError

log = structlog.stdlib.get_logger(__name__)

DURATION_SECONDS: Final = 15.0
"""Others may take a lease that was not renewed for so long."""
RENEW_SECONDS: Final = 10.0
"""A holder that could not renew for so long stops leading."""
RETRY_SECONDS: Final = 2.0


class Lease:
    """`identity` must be this process's own: the pod's name and something random."""

    def __init__(
        self,
        kube: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._identity = identity
        self._clock = clock
        self._seen: tuple[object, float] = (None, clock())
        self._renewed = float("-inf")
        self.leading = False
        self._last_turn = clock()

    def age(self) -> float:
        """Seconds since it was last tried for."""
        return self._clock() - self._last_turn

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Until cancelled: whenever this process holds the lease, `lead` runs; it is cancelled when the lease is lost.

        `lead` may end by DeposedError or UnavailableError: the lease is given up and sought anew. Any other error
        passes through.
        """
        while True:
            if not await self.attempt():
                await asyncio.sleep(RETRY_SECONDS)
                continue
            log.info("leading", identity=self._identity)
            try:
                await self._hold(lead)
            except (DeposedError, UnavailableError) as error:
                log.warning("deposed", error=str(error))
            finally:
                self.leading = False
                await self._release()
            log.warning("leading_no_more", identity=self._identity)
            await asyncio.sleep(RETRY_SECONDS)

    async def _hold(self, lead: Callable[[], Awaitable[None]]) -> None:
        self.leading = True
        work = asyncio.ensure_future(lead())
        try:
            while self._clock() - self._renewed < RENEW_SECONDS:
                done, _ = await asyncio.wait({work}, timeout=RETRY_SECONDS)
                if done:
                    break
                await self.attempt()
        finally:
            self.leading = False
            work.cancel()
            results = await asyncio.gather(work, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def attempt(self) -> bool:
        """Take or renew the lease once; whether it is ours now."""
        begun = self._clock()
        self._last_turn = begun
        try:
            async with asyncio.timeout(RENEW_SECONDS / 2):
                ours = await self._attempt()
        except (KubeError, TimeoutError) as error:
            log.warning("lease_not_renewed" if self.leading else "lease_not_taken", error=str(error) or "no answer")
            return False
        if ours:
            self._renewed = begun
        elif self.leading:
            self._renewed = float("-inf")
        return ours

    async def _attempt(self) -> bool:
        path = f"{self._collection}/{self._name}"
        try:
            lease = await self._kube.get(path)
        except KubeNotFound:
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self._name}}
            try:
                await self._kube.create(self._collection, body | {"spec": self._spec({})})
            except KubeConflict:
                return False
            return True
        spec = lease.get("spec") or {}
        if spec.get("holderIdentity") not in (None, "", self._identity) and not self._lapsed(spec):
            return False
        try:
            await self._kube.replace(path, lease | {"spec": self._spec(spec)})
        except KubeConflict:
            return False
        return True

    def _lapsed(self, spec: dict[str, Any]) -> bool:
        """Whether it has looked the same for its whole duration, by our clock: the holder's may be wrong."""
        look = (spec.get("holderIdentity"), spec.get("renewTime"))
        if self._seen[0] != look:
            self._seen = (look, self._clock())
        duration = float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)
        return self._clock() - self._seen[1] >= duration

    def _spec(self, before: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        kept = before.get("holderIdentity") == self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION_SECONDS),
            "acquireTime": before.get("acquireTime") if kept else now,
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if kept or not before else 1),
        }

    async def _release(self) -> None:
        """Let the next one lead at once."""
        path = f"{self._collection}/{self._name}"
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                lease = await self._kube.get(path)
                if lease.get("spec", {}).get("holderIdentity") == self._identity:
                    lease["spec"]["holderIdentity"] = ""
                    await self._kube.replace(path, lease)
        except (KubeError, TimeoutError) as error:
            log.info("lease_not_released", error=str(error) or "no answer")
