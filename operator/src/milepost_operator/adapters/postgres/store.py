"""The whole store: every port over one pool, and the wake-ups."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from milepost_operator.adapters.postgres.admission import PostgresAdmission
from milepost_operator.adapters.postgres.breaker import PostgresBreakers
from milepost_operator.adapters.postgres.control import PostgresControl
from milepost_operator.adapters.postgres.database import Database, connect
from milepost_operator.adapters.postgres.duties import PostgresDuties
from milepost_operator.adapters.postgres.findings import PostgresFindings
from milepost_operator.adapters.postgres.intake import PostgresIntake
from milepost_operator.adapters.postgres.launches import PostgresLaunches
from milepost_operator.adapters.postgres.lifecycle import PostgresLifecycle
from milepost_operator.adapters.postgres.listing import PostgresLists
from milepost_operator.adapters.postgres.network import PostgresNetworks
from milepost_operator.adapters.postgres.objects import PostgresObjects
from milepost_operator.adapters.postgres.podstore import PostgresPodStore
from milepost_operator.adapters.postgres.prewarm import PostgresPrewarm
from milepost_operator.adapters.postgres.pulls import PostgresPulls
from milepost_operator.adapters.postgres.queueviews import PostgresQueueReads
from milepost_operator.adapters.postgres.retention import PostgresRetention
from milepost_operator.adapters.postgres.schedule_api import PostgresScheduleApi
from milepost_operator.adapters.postgres.schedules import PostgresSchedules
from milepost_operator.adapters.postgres.streams import PostgresStreams
from milepost_operator.adapters.postgres.suspension import PostgresSuspension
from milepost_operator.adapters.postgres.triggers import PostgresTriggers
from milepost_operator.adapters.postgres.views import PostgresProjections, PostgresReads
from milepost_operator.adapters.postgres.waiting import PostgresWaiting
from milepost_operator.adapters.postgres.warm import PostgresWarm
from milepost_operator.adapters.postgres.warm_views import PostgresWarmReads
from milepost_operator.domain.errors import UnavailableError
from milepost_operator.obs.logging import get_logger
from milepost_operator.settings import Settings

RETRY_SECONDS: Final = 1.0

_log = get_logger(__name__)


class PostgresStore(
    PostgresSchedules,
    PostgresScheduleApi,
    PostgresIntake,
    PostgresTriggers,
    PostgresLaunches,
    PostgresProjections,
    PostgresPodStore,
    PostgresAdmission,
    PostgresDuties,
    PostgresReads,
    PostgresControl,
    PostgresBreakers,
    PostgresQueueReads,
    PostgresWaiting,
    PostgresLists,
    PostgresLifecycle,
    PostgresRetention,
    PostgresSuspension,
    PostgresStreams,
    PostgresObjects,
    PostgresWarm,
    PostgresWarmReads,
    PostgresNetworks,
    PostgresFindings,
    PostgresPrewarm,
    PostgresPulls,
):
    """Each parent implements one port of `ports.store` or of `ports.control`."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)
        PostgresAdmission.__init__(self, db)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator["PostgresStore"]:
        """Connect; UnavailableError when Postgres can't be reached now."""
        async with connect(settings) as db:
            yield cls(db)

    @classmethod
    @asynccontextmanager
    async def open_when_up(cls, settings: Settings) -> AsyncIterator["PostgresStore"]:
        """Connect, however long Postgres takes to answer: a crash loop would only find it later."""
        while True:
            async with AsyncExitStack() as stack:
                try:
                    store = await stack.enter_async_context(cls.open(settings))
                except UnavailableError as error:
                    _log.warning("waiting_for_postgres", error=str(error))
                else:
                    yield store
                    return
            await asyncio.sleep(RETRY_SECONDS)

    def wakeups(self, names: set[str]) -> AsyncIterator[str]:
        """Names of work that has come. A hint: some are lost with a connection, so poll too.

        Ends with UnavailableError when the connection breaks.
        """
        return self._db.wakeups(names)
