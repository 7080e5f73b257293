"""Requests and limits of a task's container: what its Task says, the installation's defaults, and its memory class."""

from collections.abc import Mapping

from milepost_operator.domain import memory
from milepost_operator.manifests import quantity
from milepost_operator.manifests.raw import Manifest, Object, part, text


def resources(own: Object, requests: Mapping[str, str], limits: Mapping[str, str], memory_class: int = 0) -> Manifest:
    """Defaults bend to what the Task says: no default request above its limit, no default limit below its request.

    `memory_class`: bytes of the memory limit where that is more; the request grows in proportion. ValueError when
    something is no quantity.
    """
    asked = {key: str(value) for key, value in part(own, "requests").items()}
    most = {key: str(value) for key, value in part(own, "limits").items()}
    for key, default in limits.items():
        if key not in most:
            most[key] = quantity.larger(default, asked[key]) if key in asked else default
    for key, default in requests.items():
        if key not in asked:
            asked[key] = quantity.smaller(default, most[key]) if key in most else default
    limit = int(quantity.value(most["memory"])) if memory_class and "memory" in most else 0
    if 0 < limit < memory_class:
        most["memory"] = memory.shown(memory_class)
        if "memory" in asked:
            asked["memory"] = memory.shown(int(quantity.value(asked["memory"]) * memory_class / limit))
    return {"requests": asked, "limits": most}


def memory_limit(own: Object, requests: Mapping[str, str], limits: Mapping[str, str], memory_class: int) -> int:
    """Bytes of memory that a task's container has; 0: no limit, or none that can be read."""
    try:
        found = text(resources(own, requests, limits, memory_class), "limits", "memory")
        return int(quantity.value(found)) if found else 0
    except ValueError:
        return 0
