"""Named queries from the `.sql` files beside this module; `-- name: admit` begins one, its comment says what for."""

import re
from importlib.resources import files
from typing import Final

_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load() -> dict[str, str]:
    """Name to SQL text, from every file; a name that stands twice is an error."""
    queries: dict[str, str] = {}
    for file in sorted(files(__package__).joinpath("sql").iterdir(), key=lambda f: f.name):
        parts = _NAME.split(file.read_text())
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in queries:
                raise ValueError(f"query {name} stands twice")
            queries[name] = text.strip().rstrip(";")
    return queries


Q: Final = load()
