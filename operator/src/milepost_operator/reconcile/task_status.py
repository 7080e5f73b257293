"""Parts of a Task's status that no change of the Task itself brings about: its next slots, its pods."""

import structlog

from milepost_operator.domain.errors import MilepostError, NotFoundError, UnavailableError
from milepost_operator.manifests.raw import Manifest
from milepost_operator.ports.kube import Objects

log = structlog.stdlib.get_logger(__name__)


async def tell_task(objects: Objects, namespace: str, task: str, status: Manifest) -> None:
    """Merge `status` into the Task's; what the API server won't take is logged. UnavailableError: try again."""
    try:
        await objects.patch_status("tasks", namespace, task, {"status": status})
    except UnavailableError:
        raise
    except NotFoundError:
        log.debug("task_missing", namespace=namespace, task=task, told=sorted(status))
    except MilepostError as error:
        log.info("task_not_told", namespace=namespace, task=task, told=sorted(status), error=str(error))
