"""`python -m e2e.cluster up|down|status|kubeconfig|load ARCHIVE [--nodes N]`."""

import argparse
import os
import sys
from pathlib import Path

from e2e.cluster.host import HostCluster
from e2e.cluster.provider import Cluster, choose
from e2e.cluster.shell import Problem, interruptible, say


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description="A Kubernetes for tests and the demo.")
    parser.add_argument("verb", choices=["up", "down", "status", "kubeconfig", "load"])
    parser.add_argument("archive", nargs="?", type=Path, help="an OCI archive, for load")
    nodes = os.environ.get("NODES") or "1"
    parser.add_argument("--nodes", type=int, default=nodes, help="how many nodes to have (default: NODES, else 1)")
    asked = parser.parse_args(words)
    interruptible()
    try:
        act(choose(), asked)
    except Problem as problem:
        say(f"error: {problem}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


def act(cluster: Cluster, asked: argparse.Namespace) -> None:
    match asked.verb:
        case "up":
            cluster.up(asked.nodes)
        case "down":
            cluster.down()
        case "kubeconfig":
            print(cluster.kubeconfig)
        case "load":
            if asked.archive is None:
                raise Problem("say which archive to load: python -m e2e.cluster load ARCHIVE")
            cluster.load_images(asked.archive)
        case _:
            parts = cluster.status() if isinstance(cluster, HostCluster) else [f"{cluster.name}: {cluster.kubeconfig}"]
            print("\n".join(parts))


if __name__ == "__main__":
    sys.exit(main())
