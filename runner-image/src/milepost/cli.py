"""The command `milepost`."""

import argparse
from collections.abc import Sequence
from typing import cast

from milepost.manifest import command


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="milepost", description="Milepost for authors of tasks.")
    commands = parser.add_subparsers(metavar="command", required=True)
    command.add_to(commands)
    args = parser.parse_args(argv)
    return cast("int", args.run(args))
