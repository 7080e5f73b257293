"""What happens in the demo, with the words that go with it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from e2e.harness.counter import Counter
from e2e.harness.faults import delete_pod
from e2e.harness.kubectl import dig, objects
from e2e.harness.lab import Attempt, Lab, Run, counting
from e2e.harness.platform import ROOT, Platform
from e2e.harness.release import Release, values_for
from e2e.images.build import BuiltImage

EXAMPLES = ROOT / "examples"
Show = Callable[..., None]


def say(text: str) -> None:
    print(text, flush=True)


def install(platform: Platform, images: Mapping[str, BuiltImage], namespace: str) -> Lab:
    """Install or upgrade the chart, deploy the counting Service, and make the demo's namespace."""
    release = Release(platform, values_for(images))
    release.install()
    counter = Counter.deploy(platform, images["control-plane"].ref)
    return Lab.open(platform, release, counter, namespace)


def index_survives(lab: Lab, show: Show) -> Run:
    """Run the index, kill its pod in the middle, and see it go on from there."""
    run = start(lab, "stdlib-index")
    say("Each package is a recorded step, and each execution of one is reported to a counting Service.")
    acknowledged = sum(event.phase == "acked" for event in run.wait_steps(60, timeout=120))
    show("get", "runs", "-n", lab.namespace)
    pod = delete_pod(run)
    say(f"\nKilled pod {pod} without a warning, {acknowledged} packages into the work.")
    run.wait("Succeeded", timeout=240)
    show("get", "runs", "-n", lab.namespace)
    report(run, show)
    result = run.result_members()
    say(
        f"Result: {result['packages']} packages, {result['files']} files, {result['lines']} lines, "
        f"{result['symbols']} symbols, {result['documented_percent']} % with a docstring, "
        f"{result['near_duplicates']} functions copied between packages."
    )
    attempts = run.attempts()
    if len(attempts) < 2 or attempts[1].resumed_after < acknowledged:
        raise AssertionError(f"the second attempt did not go on behind {acknowledged} packages: {attempts}")
    return run


def memory_is_told_apart(lab: Lab, show: Show) -> Run:
    """Run the hog into its limit: another cause, and one that counts."""
    run = start(lab, "memory-hog")
    run.wait("Failed", timeout=180)
    show("get", "runs", "-n", lab.namespace)
    report(run, show)
    reasons = [attempt.reason for attempt in run.attempts()]
    if reasons != ["OOMKilled", "OOMKilled"]:
        raise AssertionError(f"the attempts ended with {reasons}, not OOMKilled twice")
    say("An OOM kill would come again, so it counts against maxAttempts; the lost pod above did not.")
    return run


def start(lab: Lab, name: str) -> Run:
    """Build an example's image, apply its Task and create its Run with kubectl."""
    image = lab.platform.task_image(EXAMPLES / name, name)
    task = load(EXAMPLES / name / "task.yaml")
    task["spec"] |= {"image": image.ref, "env": counting()}
    say(f"$ kubectl apply -f examples/{name}/task.yaml    # with image {image.ref}")
    say(lab.kubectl.apply(task, namespace=lab.namespace).rstrip())
    say(f"$ kubectl create -f examples/{name}/run.yaml")
    created = lab.kubectl.create(load(EXAMPLES / name / "run.yaml"), namespace=lab.namespace)[0]
    say(f"run.milepost.dev/{created} created")
    return Run(lab, created)


def load(path: Path) -> dict[str, dict[str, object]]:
    """Read one manifest."""
    loaded = yaml.safe_load(path.read_text())
    if not isinstance(loaded, dict):
        raise TypeError(f"{path} is no manifest")
    return loaded


def report(run: Run, show: Show) -> None:
    """Show the run's attempts and its Events."""
    say("\nattempt  cause    ended           resumed after  counts  pod")
    for attempt in run.attempts():
        say(_line(attempt))
    chosen = f"involvedObject.kind=Run,involvedObject.name={run.name}"
    columns = "custom-columns=TYPE:.type,REASON:.reason,MESSAGE:.message"
    show("get", "events", "-n", run.lab.namespace, f"--field-selector={chosen}", "-o", columns)
    conditions = objects(dig(run.manifest(), "status", "conditions") or [])
    say("Conditions: " + ", ".join(f"{one['type']}={one['status']}" for one in conditions))


def _line(attempt: Attempt) -> str:
    counts = "yes" if attempt.counted else "no"
    after = attempt.resumed_after or "-"
    return f"{attempt.number:<8} {attempt.cause:<8} {attempt.reason or '-':<15} {after!s:<14} {counts:<7} {attempt.pod}"
