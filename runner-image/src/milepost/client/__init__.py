"""A client of Milepost's API: `Milepost` for plain code, `AsyncMilepost` for asyncio. Standard library and h11 only."""

from milepost.client.aio import AsyncMilepost
from milepost.client.errors import (
    AnswerError,
    ApiError,
    BadRequestError,
    BusyError,
    ConflictError,
    DeniedError,
    NotFoundError,
    UnavailableError,
    WaitTimeoutError,
)
from milepost.client.models import (
    Chunk,
    Created,
    Debounce,
    Run,
    RunSummary,
    Singleton,
    Throttle,
    Trigger,
    TriggerOptions,
)
from milepost.client.sync import Milepost

__all__ = [
    "AnswerError",
    "ApiError",
    "AsyncMilepost",
    "BadRequestError",
    "BusyError",
    "Chunk",
    "ConflictError",
    "Created",
    "Debounce",
    "DeniedError",
    "Milepost",
    "NotFoundError",
    "Run",
    "RunSummary",
    "Singleton",
    "Throttle",
    "Trigger",
    "TriggerOptions",
    "UnavailableError",
    "WaitTimeoutError",
]
