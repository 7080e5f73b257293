"""Parts of a Task's status that no change of the Task itself brings about: its next slots, its pods."""

import structlog

from milepost_operator.domain.errors import MilepostError, NotFoundError, UnavailableError
from milepost_operator.manifests.raw import Manifest
from milepost_operator.ports.kube import Objects

log = structlog.stdlib.get_logger(__name__)


async def tell_task(
    objects: Objects, namespace: str, task: str, status: Manifest, *, resource_version: str = ""
) -> None:
    """Merge `status` into the Task's; what the API server won't take is logged. UnavailableError: try again.

    `resource_version`: only while the Task is the one that was read.
    """
    patch: Manifest = {"status": status}
    if resource_version:
        patch["metadata"] = {"resourceVersion": resource_version}
    try:
        await objects.patch_status("tasks", namespace, task, patch)
    except UnavailableError:
        raise
    except NotFoundError:
        log.debug("task_missing", namespace=namespace, task=task, told=sorted(status))
    except MilepostError as error:
        log.info("task_not_told", namespace=namespace, task=task, told=sorted(status), error=str(error))
