"""The command `milepost manifest`."""

import argparse
import contextlib
import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final

from milepost.manifest.build import ManifestError, Object, Options, differences, merged, objects
from milepost.runner.load import LoadError, named, tasks_in
from milepost.sdk.task import TaskFunction

OK: Final = 0
DIFFERS: Final = 1
FAILED: Final = 2


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "manifest", help="write the Task and Queue objects that code declares", description=__doc__
    )
    parser.add_argument("task", metavar="module[:task]", help="a task, or all tasks of a module")
    code = parser.add_mutually_exclusive_group()
    code.add_argument("--image", help="container image with the code")
    code.add_argument("--inline", action="store_true", help="put the module's source into the Task instead of an image")
    parser.add_argument("--namespace", help="namespace of the objects")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--check", metavar="FILE", type=Path, help="fail when FILE does not say what the code says")
    where.add_argument("--write", metavar="FILE", type=Path, help="write FILE; keep what it says beside the code")
    parser.add_argument("--json", action="store_true", help="write JSON instead of YAML")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0; 1 when --check finds a difference; 2 when it can't be told."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the module prints is no manifest
            wanted = objects(*_found(args))
        if args.check is not None:
            return _check(args.check, wanted)
        if args.write is not None and args.write.exists():
            wanted = merged(_read(args.write), wanted)
        for one in wanted:
            _require_code(one)
        text = _json(wanted) if args.json else _yaml(wanted)
    except (LoadError, ManifestError) as error:
        print(f"milepost manifest: {error}", file=sys.stderr)  # noqa: T201  a command's message
        return FAILED
    if args.write is not None:
        args.write.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return OK


def _found(args: argparse.Namespace) -> tuple[list[tuple[str, TaskFunction[..., object]]], Options]:
    name, _, function = str(args.task).partition(":")
    module = _import(name)
    if function:
        tasks = [(f"{name}:{function}", named(module, function))]
    else:
        own = {id(task): (f"{name}:{attribute}", task) for attribute, task in tasks_in(module)}
        tasks = list(own.values())
    if not tasks:
        raise ManifestError(f"module {name} has no task: decorate a function with @milepost.task")
    source = None
    if args.inline:
        if not module.__file__ or not module.__file__.endswith(".py"):
            raise ManifestError(f"module {name} has no source file: name an image with --image")
        source = Path(module.__file__).read_text(encoding="utf-8")
    return tasks, Options(args.image, source, args.namespace)


def _import(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        raise ManifestError(f"module {name!r} can't be imported: {type(error).__name__}: {error}") from error


def _check(file: Path, wanted: list[Object]) -> int:
    lines = differences(_read(file), wanted)
    for line in lines:
        print(f"{file}: {line}", file=sys.stderr)  # noqa: T201
    if lines:
        print("write it anew with milepost manifest --write", file=sys.stderr)  # noqa: T201
    return DIFFERS if lines else OK


def _require_code(one: Object) -> None:
    spec = one.get("spec")
    if one["kind"] == "Task" and isinstance(spec, dict) and not {"image", "source"} & spec.keys():
        raise ManifestError("a Task needs its code: name the image with --image, or use --inline")


def _read(file: Path) -> list[Object]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"{file} can't be read: {error.strerror}") from error
    if file.suffix == ".json":
        found = json.loads(text)
        return found["items"] if isinstance(found, dict) and "items" in found else [found]
    yaml = _pyyaml()
    try:
        return [one for one in yaml.safe_load_all(text) if isinstance(one, dict)]
    except yaml.YAMLError as error:
        raise ManifestError(f"{file} is no YAML: {error}") from error


def _json(wanted: list[Object]) -> str:
    whole: Object = {"apiVersion": "v1", "kind": "List", "items": list(wanted)}
    return json.dumps(wanted[0] if len(wanted) == 1 else whole, indent=2, ensure_ascii=False) + "\n"


def _yaml(wanted: list[Object]) -> str:
    yaml = _pyyaml()

    class Dumper(yaml.SafeDumper):  # type: ignore[name-defined, misc]  # it is imported late
        """Blocks for texts of many lines, and nothing by reference."""

        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  of the base class
            return True

    def text(dumper: "Dumper", value: str) -> object:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    made: str = yaml.dump_all(wanted, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
    return made


def _pyyaml() -> ModuleType:
    try:
        return import_module("yaml")
    except ImportError as error:
        raise ManifestError("YAML needs one more package: pip install 'milepost[cli]' (or use --json)") from error
