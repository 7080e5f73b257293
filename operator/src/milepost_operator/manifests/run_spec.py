"""A Run object's spec as the run that it asks for."""

from uuid import UUID

from milepost_operator.crds.run import RunSpec
from milepost_operator.domain import options
from milepost_operator.domain.runs import Debounce, NewRun, Singleton, Throttle
from milepost_operator.manifests import names, raw
from milepost_operator.manifests.raw import Object


def new_run(body: Object, spec: RunSpec, text: str) -> NewRun:
    """The run that a Run object asks for. InvalidInputError for options that contradict each other."""
    debounce, singleton, throttle = spec.debounce, spec.singleton, spec.throttle
    options.check(
        options.Asked(
            key=spec.idempotency_key,
            scope=spec.idempotency_scope,
            seconds=spec.idempotency_seconds,
            delay=spec.delay_seconds,
            deadline=spec.deadline_seconds,
            debounce=(debounce.seconds, debounce.max_seconds) if debounce else None,
            singleton=singleton is not None,
        ),
        "spec.",
    )
    return NewRun(
        namespace=raw.namespace(body),
        task=spec.task,
        input=text,
        name=raw.name(body),
        intent_uid=raw.uid(body),
        adopt_run_id=_adopted(body),
        idempotency_key=spec.idempotency_key,
        idempotency_scope=spec.idempotency_scope or "window",
        idempotency_seconds=spec.idempotency_seconds,
        tags=tuple(spec.tags or ()),
        origin="kubectl",
        delay_seconds=spec.delay_seconds or 0,
        ttl_seconds=spec.ttl_seconds,
        deadline_seconds=spec.deadline_seconds,
        priority=spec.priority or 0,
        concurrency_key=spec.concurrency_key or "",
        cost=spec.cost or 1,
        debounce=_debounce(spec),
        singleton=Singleton(singleton.key, reject=singleton.on_conflict == "reject") if singleton else None,
        throttle=Throttle(throttle.key, throttle.limit, throttle.period_seconds) if throttle else None,
    )


def shared(spec: RunSpec) -> str:
    """What makes this Run mean a run that is there already, in words."""
    if spec.idempotency_key is not None:
        return f"idempotencyKey {spec.idempotency_key!r}"
    if spec.singleton is not None:
        return f"the singleton key {spec.singleton.key!r}"
    if spec.debounce is not None:
        return f"the debounce key {spec.debounce.key!r}"
    return f"the id in the annotation {names.RUN_ID_ANNOTATION}"


def _debounce(spec: RunSpec) -> Debounce | None:
    given = spec.debounce
    if given is None:
        return None
    longest = options.debounce_limit(given.seconds, given.max_seconds)
    return Debounce(given.key, given.seconds, longest, latest=given.payload != "first")


def _adopted(body: Object) -> UUID | None:
    try:
        return UUID(raw.text(body, "metadata", "annotations", names.RUN_ID_ANNOTATION))
    except ValueError:
        return None
