"""Entry point of the control plane's image: `milepost-operator operator | api | migrate`."""

import argparse
import asyncio
import sys
import time
from collections.abc import Coroutine

from pydantic import ValidationError

from milepost_operator.domain.errors import MilepostError, UnavailableError
from milepost_operator.obs.logging import configure_logging, get_logger
from milepost_operator.settings import Settings

MIGRATE_PATIENCE_SECONDS = 300.0


def main() -> int:
    """Run one process; the exit code is 2 for settings that can't work."""
    parser = argparse.ArgumentParser(prog="milepost-operator", description="Milepost's control plane")
    parser.add_argument("process", choices=["operator", "api", "migrate"])
    process = parser.parse_args().process
    try:
        settings = Settings()
        configure_logging(settings.log_level)
        _run(_process(process, settings))
    except (ValidationError, ValueError) as error:
        print(f"milepost-operator: settings: {error}", file=sys.stderr)  # noqa: T201  before or without a logger
        return 2
    except MilepostError as error:
        get_logger(__name__).error("stopped", process=process, code=error.code, detail=str(error))
        return 1
    return 0


def _process(name: str, settings: Settings) -> Coroutine[object, object, None]:
    # Each process imports only what it runs: start-up time and memory.
    if name == "api":
        from milepost_operator.api.server import run_api  # noqa: PLC0415

        return run_api(settings)
    if name == "operator":
        from milepost_operator.handlers.operator import run_operator  # noqa: PLC0415

        return run_operator(settings)
    return _migrate(settings)


def _run(process: Coroutine[object, object, None]) -> None:
    import uvloop  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(process)


async def _migrate(settings: Settings) -> None:
    from milepost_operator.adapters.postgres.migrate import migrate  # noqa: PLC0415

    log = get_logger(__name__)
    give_up = time.monotonic() + MIGRATE_PATIENCE_SECONDS
    while True:
        try:
            applied = await migrate(settings)
        except UnavailableError as error:
            if time.monotonic() > give_up:
                raise
            log.info("waiting_for_postgres", detail=str(error))
            await asyncio.sleep(1)
        else:
            log.info("migrated", applied=applied)
            return


if __name__ == "__main__":
    sys.exit(main())
