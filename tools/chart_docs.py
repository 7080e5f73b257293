"""Write the table of values into the chart's README from the comments in values.yaml; with --check only compare."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

CHART = Path(__file__).resolve().parent.parent / "charts" / "milepost"
README, VALUES = CHART / "README.md", CHART / "values.yaml"
BEGIN, END = "<!-- values -->\n", "<!-- /values -->\n"
KEY = re.compile(r"(?P<indent> *)(?P<name>\w+):\s*(?P<value>.*)")


def rows(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """The (path, default, comment) of every key that has a value or a comment of its own."""
    path: list[str] = []
    comment: list[str] = []
    for line in lines:
        text = line.strip()
        if text.startswith("#"):
            comment.append(text.removeprefix("#").strip())
            continue
        found = KEY.fullmatch(line.rstrip())
        if found:
            path = [*path[: len(found["indent"]) // 2], found["name"]]
            if found["value"] or comment:
                yield ".".join(path), found["value"], " ".join(comment)
        comment = []


def table(lines: list[str]) -> str:
    """The rows as a Markdown table."""
    head = "| value | default | meaning |\n|---|---|---|\n"
    return head + "".join(
        f"| `{path}` | {f'`{value}`' if value else ''} | {comment.replace('|', '&#124;').replace('<', '&lt;')} |\n"
        for path, value, comment in rows(lines)
    )


def main() -> int:
    """Exit code 1 when --check finds another table."""
    old = README.read_text()
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    new = before + BEGIN + table(VALUES.read_text().splitlines()[1:]) + END + after
    if "--check" in sys.argv[1:]:
        if new != old:
            print(f"{README.name} of the chart is not what tools/chart_docs.py makes: run it")
        return int(new != old)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
