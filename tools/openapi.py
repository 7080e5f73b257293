"""Write the OpenAPI document of the public API to docs/openapi.json; with --check only say whether it is up to date."""

import json
import sys
from pathlib import Path
from typing import cast

from milepost_operator.adapters.kube.tokenreview import PodIdentity
from milepost_operator.adapters.postgres.database import Database
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api.app import ApiSettings, build_app
from milepost_operator.api.health import Health
from milepost_operator.api.sessions import MIN_KEY_BYTES, Sessions
from milepost_operator.api.tokens import ApiTokens
from milepost_operator.obs.metrics import Metrics

TARGET = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"


def rendered() -> str:
    """The document of the app as it is built: no route is called, so there need be no database."""
    app = build_app(
        PostgresStore(cast("Database", None)),
        _nobody,
        ApiSettings(),
        sessions=Sessions(bytes(MIN_KEY_BYTES)),
        tokens=ApiTokens(None),
        metrics=Metrics(),
        health=Health(_nothing, dict),
        poke=lambda: None,
    )
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


async def _nobody(token: str) -> PodIdentity:
    raise NotImplementedError(token)


async def _nothing() -> None:
    return None


def main() -> int:
    text = rendered()
    if TARGET.exists() and TARGET.read_text() == text:
        return 0
    if "--check" in sys.argv[1:]:
        print("docs/openapi.json is not what tools/openapi.py makes: run it")
        return 1
    TARGET.write_text(text)
    print("wrote docs/openapi.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
