"""What a Task's conditions tell."""

from e2e.harness.kubectl import dig
from e2e.harness.lab import Lab
from e2e.harness.wait import eventually


def condition(lab: Lab, task: str, kind: str) -> tuple[str, str, str] | None:
    """Status, reason and message of a Task's condition."""
    found = dig(lab.kubectl.get("task", task, lab.namespace), "status", "conditions")
    for one in found if isinstance(found, list) else []:
        if one["type"] == kind:
            return one["status"], one["reason"], one.get("message", "")
    return None


def says(lab: Lab, task: str, kind: str, status: str, timeout: float = 40) -> tuple[str, str, str]:
    """Wait for a condition; its status, reason and message."""

    def look() -> tuple[str, str, str] | None:
        found = condition(lab, task, kind)
        return found if found and found[0] == status else None

    return eventually(f"{kind}={status} of {task}", look, timeout, 0.5, lab.diagnose)
