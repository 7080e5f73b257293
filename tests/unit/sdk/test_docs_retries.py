"""The examples of docs/retries.md are code that runs."""

from pathlib import Path

import pytest

from milepost import TaskFunction

PAGE = Path(__file__).parents[3] / "docs/retries.md"
EXAMPLES = [part.partition("```")[0] for part in PAGE.read_text().split("```python\n")[1:]]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_can_be_imported(number: int):
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(EXAMPLES[number], f"{PAGE}#{number}", "exec"), names)
    task = names.get("main")
    if task is not None:
        assert isinstance(task, TaskFunction)
    if "decide" in names:
        assert names["decide"](KeyError()) in {False, None}  # type: ignore[operator]
