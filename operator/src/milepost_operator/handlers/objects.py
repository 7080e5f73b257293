"""kopf, for Task, Queue and Run objects only: `on.event` hands each of them to the backlog, and that is all.

Nothing is written by kopf: no finalizers, annotations or Events. Pods and Jobs are not its business (no selectors on
the server's side, deletions missed after a relist).
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import kopf
import structlog

from milepost_operator.crds.common import GROUP, VERSION
from milepost_operator.domain.errors import UnavailableError
from milepost_operator.ports.kube import Plural
from milepost_operator.reconcile.backlog import Backlog

log = structlog.stdlib.get_logger(__name__)

PLURALS: Final[tuple[Plural, ...]] = ("queues", "tasks", "runs")
_STOP_SECONDS: Final = 5.0


def registry_of(backlog: Backlog) -> kopf.OperatorRegistry:
    """Handlers that can't fail: whatever happens in one kills no watcher."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    for plural in PLURALS:
        kopf.on.event(GROUP, VERSION, plural, registry=registry, id=f"{plural}-intake")(_handler(plural, backlog))
    return registry


def _handler(plural: Plural, backlog: Backlog) -> Any:
    async def take(event: kopf.RawEvent, **_: object) -> None:
        try:
            backlog.put(plural, event["object"], deleted=event["type"] == "DELETED")
        except asyncio.CancelledError:
            raise
        except BaseException:
            log.exception("event_lost", kind=plural)

    return take


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """By kopf's own readers: the official client would be half of the process's memory."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


def settings_of(namespaces: Sequence[str]) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 660
    settings.watching.chunk_size = 500
    settings.scanning.disabled = bool(namespaces)
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    return settings


async def watch_objects(backlog: Backlog, namespaces: Sequence[str], on_spawn: Callable[[], None]) -> None:
    """Watch until cancelled. UnavailableError when kopf gives up, whatever its reason.

    `on_spawn` is called once kopf has started, for what it took from the process to be taken back.
    """
    tasks = await kopf.spawn_tasks(
        registry=registry_of(backlog),
        settings=settings_of(namespaces),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
    )
    on_spawn()
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = None if task.cancelled() else task.exception()
            raise UnavailableError(f"kopf ended: {task.get_name()}: {error!r}") from error
    finally:
        # Not kopf.run_tasks: it would cancel every task of this loop, ours included.
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_STOP_SECONDS)
