"""SQL in the embedded Postgres, through kubectl exec: rows are the truth, so scenarios check them."""

import json
from dataclasses import dataclass

from e2e.harness.kubectl import Kubectl, objects

PSQL = 'PGPASSWORD=$(cat /etc/postgresql-secrets/password) exec psql -h 127.0.0.1 -U milepost -d milepost "$@"'


@dataclass(frozen=True)
class Sql:
    """`pod`: the database's pod, in `namespace`."""

    kubectl: Kubectl
    namespace: str
    pod: str = "milepost-postgres-0"

    def run(self, script: str) -> str:
        """Execute statements, stopping at the first error; returns what they print, unaligned."""
        flags = ["-qtAX", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        return self.kubectl.execute(
            self.pod, self.namespace, "postgres", "sh", "-c", PSQL, "psql", *flags, text_in=script
        )

    def rows(self, query: str) -> list[dict[str, object]]:
        """Give the rows of a query as JSON objects."""
        text = self.run(f"select coalesce(json_agg(row_to_json(q)), '[]'::json) from ({query}) q").strip()
        return objects(json.loads(text))

    def value(self, query: str) -> object:
        """Give the first column of the first row; None when there is none."""
        found = self.rows(query)
        return next(iter(found[0].values())) if found else None


def literal(text: str) -> str:
    """Quote a text for SQL."""
    return "'" + text.replace("'", "''") + "'"
