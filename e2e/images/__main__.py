"""Build the images and load them: `python -m e2e.images build|load|task|context`."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from e2e.cluster.provider import choose
from e2e.cluster.shell import Problem, interruptible
from e2e.images.build import BuiltImage, build_all, build_task, default_builder, ensure_loaded
from e2e.images.builder import BuildError
from e2e.images.catalog import IMAGES


def main() -> int:
    arguments = _parser().parse_args()
    interruptible()
    try:
        if arguments.command == "context":
            arguments.directory.mkdir(parents=True)
            IMAGES[arguments.image].write_context(arguments.directory)
        elif arguments.command == "task":
            _show([build_task(arguments.directory, arguments.name, arguments.builder)], as_json=arguments.json)
        elif arguments.command == "load":
            built = build_all(arguments.builder, arguments.only)
            loaded = ensure_loaded(choose(), built.values())
            print("\n".join(loaded) or "the cluster has them all")
        else:
            _show(build_all(arguments.builder, arguments.only).values(), as_json=arguments.json)
    except (BuildError, Problem) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.images", description="Build Milepost's images without an image registry."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the repository's images into archives in the cache")
    load = commands.add_parser("load", help="build, and bring onto the cluster what it has not got")
    for command in (build, load):
        command.add_argument("--only", nargs="+", choices=sorted(IMAGES), default=[], metavar="NAME")
    task = commands.add_parser("task", help="build a task's image from a directory with a Dockerfile")
    task.add_argument("directory", type=Path)
    task.add_argument("name", help="becomes milepost.local/NAME")
    for command in (build, load, task):
        command.add_argument("--builder", choices=["buildah", "docker"], default=default_builder())
    for command in (build, task):
        command.add_argument("--json", action="store_true", help="print JSON")
    context = commands.add_parser("context", help="write an image's build context into a new directory")
    context.add_argument("image", choices=sorted(IMAGES))
    context.add_argument("directory", type=Path)
    return parser


def _show(images: Iterable[BuiltImage], *, as_json: bool) -> None:
    if as_json:
        fields = [{"name": i.name, "ref": i.ref, "archive": str(i.archive), "digest": i.digest} for i in images]
        print(json.dumps(fields, indent=2))
        return
    for image in images:
        print(f"{image.name:<14} {image.ref:<52} {image.seconds:6.1f} s")


if __name__ == "__main__":
    sys.exit(main())
