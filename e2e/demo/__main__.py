"""`make demo`: bring up a cluster, install Milepost, kill a task in its middle, and prove that nothing ran twice."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from e2e.cluster.shell import Problem
from e2e.demo.story import index_survives, install, memory_is_told_apart
from e2e.harness.kubectl import KubectlError
from e2e.harness.lab import Lab
from e2e.harness.platform import Platform
from e2e.harness.wait import WaitedTooLongError
from e2e.images.builder import BuildError

NAMESPACE = "demo"


class Stages:
    """Says what goes on, and how long each part took."""

    def __init__(self) -> None:
        self.took: dict[str, float] = {}

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Announce a part and time it."""
        print(f"\n== {title}", flush=True)
        begun = time.monotonic()
        yield
        self.took[title] = time.monotonic() - begun

    def summary(self) -> str:
        total = sum(self.took.values())
        lines = [f"{seconds:7.1f} s  {title}" for title, seconds in self.took.items()]
        return "\n".join([*lines, f"{total:7.1f} s  in all"])


def main() -> int:
    stages = Stages()
    try:
        repeated = tell(stages)
    except (Problem, BuildError, KubectlError, WaitedTooLongError, RuntimeError, AssertionError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    return 1 if repeated else 0


def tell(stages: Stages) -> int:
    """Play the demo; returns how many finished steps ran twice."""
    with stages.stage("A Kubernetes cluster"):
        platform = Platform.bring_up()
        _show(platform, "get", "nodes")
    with stages.stage("Images, built from this checkout"):
        images = platform.images()
    with stages.stage("Milepost, installed with Helm"):
        lab = install(platform, images, NAMESPACE)
        _show(platform, "get", "pods", "-n", "milepost-system")
    with stages.stage("An index of Python's standard library, whose pod is killed in the middle"):
        survivor = index_survives(lab, _shower(platform))
    with stages.stage("A task that goes over its memory limit"):
        memory_is_told_apart(lab, _shower(platform))
    with stages.stage("The count"):
        events = survivor.events()
        repeated = len(survivor.repeats())
        executed = sum(event.phase == "start" for event in events)
        steps = len(survivor.records())
    print(f"\n{stages.summary()}")
    _next_steps(platform, lab)
    killed = executed - steps
    print(f"\n{steps} steps finished, {executed} executions counted; {killed} of them were cut short by the kill.")
    print(f"finished steps that ran twice: {repeated or 'none'}")
    return repeated


def _shower(platform: Platform) -> Callable[..., None]:
    def show(*words: str) -> None:
        _show(platform, *words)

    return show


def _show(platform: Platform, *words: str) -> None:
    """Run kubectl in front of everybody."""
    print(f"$ kubectl {' '.join(words)}")
    print(platform.kubectl.run(*words).rstrip(), flush=True)


def _next_steps(platform: Platform, lab: Lab) -> None:
    config: Mapping[str, str] = {"KUBECONFIG": str(platform.cluster.kubeconfig)}
    print("\nThe cluster stays up. Three commands to try next:")
    print(f"  export {next(f'{k}={v}' for k, v in config.items())}")
    print(f"  kubectl create -n {lab.namespace} -f examples/stdlib-index/run.yaml")
    print(f"  kubectl get runs -n {lab.namespace} -w")


if __name__ == "__main__":
    sys.exit(main())
