"""What lists and calls on many runs filter by, once for query parameters and bodies."""

from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.lifecycle import RunFilter
from milepost_operator.domain.states import RunState

MAX_PAGE: Final = 500
MAX_MANY: Final = 1_000
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)


def _plausible(value: datetime) -> datetime:
    if not _EARLIEST <= value <= _LATEST:
        raise ValueError("must be between the years 1970 and 9999")
    return value.astimezone(UTC)


Time = Annotated[AwareDatetime, AfterValidator(_plausible)]
Text = Annotated[str, Field(min_length=1, max_length=256)]
Seconds = Annotated[float, Field(ge=0, le=3_153_600_000, allow_inf_nan=False)]


class FilterBody(BaseModel):
    """All that is given must hold. `key`: the concurrency key. Times: from `…After` on, before `…Before`.

    `minSeconds` and `maxSeconds`: from the first start to the end. `error`: text within the reason or message of runs
    that failed, timed out or expired, in any case.
    """

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    task: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    queue: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    state: Annotated[list[RunState], Field(max_length=len(RunState))] = []
    tag: Text | None = None
    key: Text | None = None
    idempotency_key: Text | None = None
    created_after: Time | None = None
    created_before: Time | None = None
    finished_after: Time | None = None
    finished_before: Time | None = None
    min_seconds: Seconds | None = None
    max_seconds: Seconds | None = None
    error: Text | None = None

    def parsed(self) -> RunFilter:
        """As the store takes it. InvalidInputError for a range that nothing is in, or two orders at once."""
        for low, high in (
            ("created_after", "created_before"),
            ("finished_after", "finished_before"),
            ("min_seconds", "max_seconds"),
        ):
            first, last = getattr(self, low), getattr(self, high)
            if first is not None and last is not None and first > last:
                path = to_camel(low)
                raise InvalidInputError(
                    "empty-range", f"{path} is beyond {to_camel(high)}: nothing is in between", path
                )
        return RunFilter(
            task=self.task,
            queue=self.queue,
            states=tuple(dict.fromkeys(self.state)),
            tag=self.tag,
            key=self.key,
            idempotency_key=self.idempotency_key,
            created_after=self.created_after,
            created_before=self.created_before,
            finished_after=self.finished_after,
            finished_before=self.finished_before,
            min_seconds=self.min_seconds,
            max_seconds=self.max_seconds,
            error=self.error,
        )


class FilterQuery(FilterBody):
    """The same as query parameters; `state` may be there several times."""

    namespace: str | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 50
    cursor: Annotated[str, Field(max_length=128)] | None = None


def required(body: FilterBody) -> RunFilter:
    """A filter that names something: an empty one would mean every run there is."""
    if not body.model_dump(exclude_none=True, exclude_defaults=True):
        message = "the filter is empty: name at least one condition (createdBefore with the time of now means all)"
        raise InvalidInputError("empty-filter", message, "$.filter")
    return body.parsed()
