"""`python -m e2e.cluster.ahead NAME...`: build programs of the cluster while another process builds others."""

import sys

from e2e.cluster.binaries import build_ahead
from e2e.cluster.shell import Problem, interruptible, say


def main() -> int:
    interruptible()
    try:
        build_ahead(sys.argv[1:])
    except Problem as problem:
        say(f"{problem}\nIt is tried again when what is built beside it is done.")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
