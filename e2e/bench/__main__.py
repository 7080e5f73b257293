"""`make bench`: all benchmarks, or those named: install footprint cold_start step recover etcd_writes burst.

`make bench-start` names those of starts and ends: warm_start cold_start many_starts death idle_pod warm_soak. There is
`neighbour` besides: what a task notices of others that want all there is.
"""

import argparse
import json
import sys
import uuid
from collections.abc import Callable, Sequence

from e2e.bench import (
    burst,
    cold_start,
    death,
    etcd_writes,
    footprint,
    idle_pod,
    install,
    many_starts,
    neighbour,
    recover,
    step,
    warm_soak,
    warm_start,
)
from e2e.bench.bars import Bar, machine, show
from e2e.harness.counter import Counter
from e2e.harness.kubectl import dig
from e2e.harness.lab import Lab
from e2e.harness.platform import Platform
from e2e.harness.release import Release, values_for

REMOVAL_SECONDS = 300
Benchmark = Callable[[Lab], Sequence[Bar]]
ALL: dict[str, Benchmark] = {
    "install": install.measure,
    "footprint": footprint.measure,
    "cold_start": cold_start.measure,
    "step": step.measure,
    "recover": recover.measure,
    "etcd_writes": etcd_writes.measure,
    "burst": burst.measure,
}
MORE: dict[str, Benchmark] = {
    "warm_start": warm_start.measure,
    "many_starts": many_starts.measure,
    "death": death.measure,
    "idle_pod": idle_pod.measure,
    "warm_soak": warm_soak.measure,
    "neighbour": neighbour.measure,
}
"""Those that only run when they are named."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.bench", description="Measure Milepost on the real cluster.")
    parser.add_argument(
        "names",
        nargs="*",
        choices=[*ALL, *MORE, []],
        metavar="NAME",
        help=f"of {', '.join([*ALL, *MORE])}; those before {next(iter(MORE))} if none",
    )
    names = parser.parse_args().names or list(ALL)
    platform = Platform.bring_up()
    images = platform.images()
    release = Release(platform, values_for(images))
    release.uninstall()  # figures of a database with history would tell of that history
    release.install()
    counter = Counter.deploy(platform, images["control-plane"].ref)
    print(f"machine: {machine()}")
    print(f"versions: Kubernetes {server_version(platform)}, {images['control-plane'].ref}, {images['runner'].ref}")
    good = True
    for name in names:
        print(f"\n== {name}", flush=True)
        lab = Lab.open(platform, release, counter, f"bench-{name.replace('_', '-')}-{uuid.uuid4().hex[:5]}")
        good = show((ALL | MORE)[name](lab)) and good
        # its end takes CPU too, which is not to be the next one's
        lab.kubectl.run("delete", "namespace", lab.namespace, "--wait=true", timeout=REMOVAL_SECONDS)
    return 0 if good else 1


def server_version(platform: Platform) -> str:
    found = json.loads(platform.kubectl.run("version", "-o", "json"))
    return str(dig(found, "serverVersion", "gitVersion"))


if __name__ == "__main__":
    sys.exit(main())
