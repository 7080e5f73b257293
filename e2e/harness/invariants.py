"""The invariants, asked of the rows with the product's own queries, after every fault."""

import re
from dataclasses import dataclass

import yaml

from e2e.harness.platform import ROOT
from e2e.harness.sql import Sql, literal
from e2e.harness.wait import eventually

QUERIES = ROOT / "operator/src/milepost_operator/adapters/postgres/sql"
VALUES = ROOT / "charts/milepost/values.yaml"
NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class Invariants:
    """Each counts the rows that break it. `cluster`: the name that the release gives its rows."""

    sql: Sql
    cluster: str = "default"

    def violations(self) -> dict[str, int]:
        """Every invariant that is broken now, with its count."""
        counts = self.sql.rows(combined(queries(), literal(self.cluster), *limits()))
        return {str(row["name"]): int(str(row["broken"])) for row in counts if row["broken"]}

    def check(self, timeout: float = 20) -> None:
        """Wait until nothing is broken: some may be for the seconds until a sweep has passed."""
        seen: dict[str, int] = {}

        def clean() -> bool:
            seen.clear()
            seen.update(self.violations())
            return not seen

        eventually("invariants that hold", clean, timeout, 1.0, lambda: f"broken: {seen}")


def queries() -> str:
    """The text of all files of invariants."""
    return "\n".join(file.read_text() for file in sorted(QUERIES.glob("invariants*.sql")))


def limits() -> tuple[str, str]:
    """Parameters beside the cluster: pods of a Task that may wait, and pods in all, as the chart has them."""
    settings = yaml.safe_load(VALUES.read_text())["settings"]
    return str(settings["warmMax"]), str(settings["warmTotal"])


def combined(text: str, *parameters: str) -> str:
    """Make one query of the named ones, with the parameters (SQL) in place: rows of (name, broken)."""
    parts = NAME.split(text)[1:]
    queries = []
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        query = "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip().rstrip(";")
        for number, parameter in enumerate(parameters, 1):
            query = query.replace(f"${number}", parameter)
        queries.append(f"select {literal(name)} as name, ({query}) as broken")
    return "\nunion all\n".join(queries)
