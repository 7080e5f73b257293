"""A cache of the objects of one kind, by list and watch: paged, selected by label, and honest about deletions.

After a relist, what is gone is taken out; a watch that only reports what it saw would keep it for ever.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from milepost_operator.adapters.kube.client import KubeClient, KubeError, KubeGone

log = structlog.stdlib.get_logger(__name__)

PAGE: Final = 500
WATCH_SECONDS: Final = 300
DEAD_SECONDS: Final = 150.0
"""A watch that gave no sign of life (event, bookmark, end in order) for so long is not believed."""
GONE_SECONDS: Final = 60.0
"""For so long it is remembered how an object was as it was deleted: what ended it is told there, and nowhere after."""
_MAX_BACKOFF: Final = 10.0

Object = dict[str, Any]


class Informer:
    """`path`: the collection; `on_change` is called after each change of the cache."""

    def __init__(
        self,
        kube: KubeClient,
        path: str,
        selector: str,
        on_change: Callable[[], None] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._path = path
        self._selector = selector
        self._on_change = on_change
        self._clock = clock
        self._cache: dict[str, Object] = {}
        self._gone: dict[str, tuple[float, Object]] = {}
        self._version = ""
        self._alive = float("-inf")

    def objects(self) -> Sequence[Object]:
        return list(self._cache.values())

    def gone(self) -> Sequence[Object]:
        """What the watch saw deleted within the last minute, as it was then."""
        self._forget()
        return [item for _, item in self._gone.values()]

    def age(self) -> float:
        """Seconds since the last sign of life."""
        return self._clock() - self._alive

    def synced(self) -> bool:
        """A complete list was taken, and the watch is alive."""
        return self.age() < DEAD_SECONDS

    async def run(self) -> None:
        """List and watch until cancelled. Errors are waited out."""
        failures = 0
        while True:
            try:
                if not self._version:
                    await self.relist()
                await self._watch()
                failures = 0
            except KubeGone:
                self._version = ""
            except KubeError as error:
                failures += 1
                log.warning("watch_broke", path=self._path, error=str(error), failures=failures)
                await asyncio.sleep(min(0.5 * 2 ** min(failures, 6), _MAX_BACKOFF))

    async def relist(self) -> None:
        """One complete list, page by page, replaces the cache. KubeGone when it took too long: begin anew."""
        fresh: dict[str, Object] = {}
        params: dict[str, str | int] = {"labelSelector": self._selector, "limit": PAGE}
        while True:
            page = await self._kube.list(self._path, params)
            for item in page.get("items") or ():
                fresh[item["metadata"]["uid"]] = _lean(item)
            token = page.get("metadata", {}).get("continue")
            if not token:
                break
            params["continue"] = token
        changed = _versions(fresh) != _versions(self._cache)
        self._cache = fresh
        self._version = page["metadata"]["resourceVersion"]
        self._alive = self._clock()
        if changed:
            self._on_change()

    async def _watch(self) -> None:
        params: dict[str, str | int] = {
            "labelSelector": self._selector,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": WATCH_SECONDS,
        }
        async for event in self._kube.watch(self._path, params):
            self.take(event["type"], event["object"])
        self._alive = self._clock()

    def take(self, kind: str, item: Object) -> None:
        """One event of the watch."""
        self._alive = self._clock()
        self._version = item["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        if kind == "DELETED":
            self._cache.pop(item["metadata"]["uid"], None)
            self._forget()
            self._gone[item["metadata"]["uid"]] = self._clock(), _lean(item)
        else:
            self._cache[item["metadata"]["uid"]] = _lean(item)
        self._on_change()

    def _forget(self) -> None:
        until = self._clock() - GONE_SECONDS
        for uid in [uid for uid, (at, _) in self._gone.items() if at <= until]:
            del self._gone[uid]


def _lean(item: Object) -> Object:
    """Managed fields are a quarter of an object, and nobody's business here."""
    item["metadata"].pop("managedFields", None)
    return item


def _versions(cache: dict[str, Object]) -> dict[str, str]:
    return {uid: item["metadata"]["resourceVersion"] for uid, item in cache.items()}
