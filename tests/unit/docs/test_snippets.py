"""Every Python snippet of the docs runs: each as a module of its own, its tests called, its tasks run as told here."""

import asyncio
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from milepost import TaskFunction
from milepost.testing import AsyncTaskRun

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_ELSEWHERE = {"docs/triggering.md", "docs/changed-code.md"}
"""Compiled only: the client's methods are those of tests/integration/test_python_client.py, and what is told of changed
code is resumed in tests/unit/sdk/test_changed_code.py.
"""


@dataclass(frozen=True)
class Snippet:
    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Told:
    """What the docs leave to the reader (names and values), the input of a run, and what it has to give."""

    given: dict[str, object]
    input: object
    result: object


async def _nothing(*_: object) -> None:
    return None


RUNS = {
    "README.md index-docs": Told(
        {"list_pages": lambda folder: [f"{folder}/a", f"{folder}/b"], "index_page": lambda _: None},
        {"folder": "handbook"}, {"pages": 2},
    ),
    "docs/authoring.md report": Told(
        {"download": lambda url: f"<p>{url}</p>", "count_words": lambda page, _: len(page["text"].split())},
        {"url": "https://example.org"}, {"words": 1},
    ),
    "docs/authoring.md import": Told({"batches": lambda: [1, 2, 3], "load": _nothing}, None, 3),
    "docs/values.md chat": Told({}, {"turns": 3}, 3),
    "docs/retries.md report": Told({}, {"url": "data:text/plain,one%20two%20three"}, 3),
    "docs/retries.md sync": Told({}, None, None),
    "docs/retries.md order": Told({}, {"order": "pen"}, "pen"),
    "docs/manifest.md place-order": Told(
        {}, {"lines": [{"sku": "pen", "count": 2}, {"sku": "ink"}], "at": "2026-11-21T12:00:00Z"}, 3
    ),
    "docs/authoring.md main": Told({"square": lambda n: n * n}, {"numbers": [1, 2, 3]}, 14),
}  # fmt: skip
"""By document and task."""


def snippets() -> Iterator[Snippet]:
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text()
        for found in BLOCK.finditer(text):
            yield Snippet(str(path.relative_to(ROOT)), text.count("\n", 0, found.start()) + 2, found[1])


@pytest.mark.parametrize("snippet", list(snippets()), ids=str)
async def test_a_snippet_runs(snippet: Snippet, monkeypatch: pytest.MonkeyPatch):
    # its lines are where the document has them
    code = compile("\n" * (snippet.line - 1) + snippet.text, str(ROOT / snippet.path), "exec")
    if snippet.path in RUN_ELSEWHERE:
        return
    module = ModuleType(f"snippet_{snippet.line}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for told in RUNS.values():
        vars(module).update(told.given)
    exec(code, vars(module))
    members = list(vars(module).items())
    for name, member in members:
        if name.startswith("test_"):
            await call(member)
    tested = any(name.startswith("test_") for name, _ in members)
    for name, member in members:
        if isinstance(member, TaskFunction) and not tested:
            told = RUNS.get(f"{snippet.path} {member.id}")
            assert told is not None, f"{snippet}: say in RUNS how {name} is run"
            assert await AsyncTaskRun(member, told.input).finish() == told.result


async def call(test) -> None:
    if inspect.iscoroutinefunction(test):
        await test()
    else:
        await asyncio.to_thread(test)  # a plain test has no event loop around it


def test_every_run_has_its_snippet():
    found = {snippet.path for snippet in snippets()}
    assert {name.partition(" ")[0] for name in RUNS} | RUN_ELSEWHERE <= found
