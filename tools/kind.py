"""What kind needs where no image registry and no Docker engine is: `tools/kind.py image | start | stop`.

`image` makes the node image (kept by content) and prints its name and archive; `start` runs Debian's Docker engine in a
network of its own and prints its address, for DOCKER_HOST; `stop` ends it and removes its traces. `make demo
PROVIDER=kind` does all of this by itself.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from e2e.cluster import dockerd, kindimage
from e2e.cluster.shell import Problem, interruptible, say


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/kind.py", description="A node image and a Docker engine for kind.")
    parser.add_argument("action", choices=["image", "start", "stop"])
    action = parser.parse_args().action
    interruptible()
    try:
        if action == "image":
            print(*kindimage.node_image())
        elif action == "start":
            print(dockerd.engine() or dockerd.start())
        else:
            dockerd.stop()
    except Problem as problem:
        say(f"error: {problem}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
