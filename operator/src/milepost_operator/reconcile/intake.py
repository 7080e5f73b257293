"""Task, Queue and Run objects become rows. Level-triggered: the same object, any number of times, is the same row."""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Protocol, TypeVar, cast
from uuid import UUID

import structlog
from pydantic import ValidationError

from milepost.wire.values import JSON, check_text
from milepost_operator.crds.queue import PerKey, QueueSpec
from milepost_operator.crds.queue import Rate as RateSpec
from milepost_operator.crds.run import RunSpec
from milepost_operator.crds.task import TaskSpec
from milepost_operator.domain.errors import (
    ConflictError,
    InvalidInputError,
    MilepostError,
    NotFoundError,
    QueueFullError,
    ThrottledError,
    UnavailableError,
)
from milepost_operator.domain.runs import DEFAULT_QUEUE, Created, QueueIntake, Rate, Semaphore, TaskIntake
from milepost_operator.domain.schema.compiled import Schema
from milepost_operator.domain.states import TERMINAL
from milepost_operator.manifests import quantity, raw, run_cr
from milepost_operator.manifests.names import RESTART_ANNOTATION, clipped
from milepost_operator.manifests.raw import Manifest, Object
from milepost_operator.manifests.run_spec import new_run, shared
from milepost_operator.manifests.schemas import read_schema, schema_text
from milepost_operator.manifests.shape import (
    breaker_policy,
    network_of,
    policy_of,
    record_limits_of,
    retention_of,
    shape_of,
    warm_of,
)
from milepost_operator.ports.kube import Objects, Plural
from milepost_operator.ports.schedules import ScheduleIntake
from milepost_operator.ports.store import Intake
from milepost_operator.reconcile.conditions import Said, changes, merged
from milepost_operator.reconcile.network import CONDITION as NETWORK
from milepost_operator.reconcile.network import TaskNetworks
from milepost_operator.reconcile.schedules import apply_schedules, said_of
from milepost_operator.reconcile.task_status import tell_task

log = structlog.stdlib.get_logger(__name__)

M = TypeVar("M", TaskSpec, QueueSpec, RunSpec)

_LATER: Final = frozenset({"QueueFull", "Throttled"})
"""Reasons of refusals that pass: such a Run is tried again for as long as it is there."""
_ENDED: Final = frozenset(run_cr.phase(state) for state in TERMINAL) | {"Cancelling"}


class Refused(Exception):  # noqa: N818 (an outcome, told in a condition)
    """The object can't be taken, whoever tries again: reason (CamelCase) and what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class IntakeStore(Intake, ScheduleIntake, Protocol):
    """The store as intake needs it."""


class ObjectIntake:
    """One `on_…` for each kind; `deleted` tells whether the object is gone.

    They raise UnavailableError alone: the caller tries again. An object that can't be taken gets a condition.
    """

    def __init__(
        self,
        store: IntakeStore,
        objects: Objects,
        networks: TaskNetworks,
        *,
        clock: Callable[[], datetime],
        max_input_bytes: int,
    ) -> None:
        self._store = store
        self._objects = objects
        self._networks = networks
        self._clock = clock
        self._max_input = max_input_bytes
        self._tasks: dict[tuple[str, str], Object] = {}
        self._versions: dict[str, tuple[tuple[int, str | None], int]] = {}
        self._later: dict[tuple[str, str], Object] = {}
        self._wrong: dict[str, list[str]] = {}

    async def on_task(self, body: Object, *, deleted: bool) -> None:
        namespace, name, uid = raw.namespace(body), raw.name(body), raw.uid(body)
        if deleted:
            self._tasks.pop((namespace, name), None)
            self._versions.pop(uid, None)
            self._wrong.pop(uid, None)
            await self._store.remove_task(namespace, name, uid)
            return
        self._tasks[namespace, name] = body
        try:
            spec = _parsed(TaskSpec, body)
            schema = await _schema("inputSchema", spec.input_schema)
            await _schema("outputSchema", spec.output_schema)
            intake = _task(body, spec)
            self._check_network(intake)
        except Refused as refused:
            await self._show("tasks", body, {}, [Said("Accepted", False, refused.reason, refused.message)])
            return
        known, stands = self._versions.get(uid), (intake.generation, intake.restart)
        if known is None or known[0] != stands:
            known = (stands, await self._store.apply_task(intake))
            self._wrong[uid] = await apply_schedules(self._store, intake, spec.schedules, schema)
            self._versions[uid] = known
        said = [
            Said("Accepted", True, "Accepted", f"new runs use version {known[1]}"),
            await self._queue_found(namespace, intake.queue),
            *said_of(body, self._wrong.get(uid, ())),
            *await self._networks.of_task(namespace, name, intake.network, told=bool(raw.condition(body, NETWORK))),
        ]
        await self._show("tasks", body, {"version": known[1], "queue": intake.queue}, said)

    def _check_network(self, task: TaskIntake) -> None:
        try:
            self._networks.check(task.network)
        except InvalidInputError as error:
            raise Refused("InvalidNetwork", str(error)) from error

    def tasks(self) -> Sequence[Object]:
        """The Tasks as they were last seen."""
        return list(self._tasks.values())

    async def on_queue(self, body: Object, *, deleted: bool) -> None:
        namespace, name, uid = raw.namespace(body), raw.name(body), raw.uid(body)
        if deleted:
            self._versions.pop(uid, None)
            await self._store.remove_queue(namespace, name, uid)
            await self._tell_tasks(namespace, name)
            return
        try:
            spec = _parsed(QueueSpec, body)
        except Refused as refused:
            await self._show("queues", body, {}, [Said("Accepted", False, refused.reason, refused.message)])
            return
        generation = _generation(body)
        fresh = self._versions.get(uid, (None, 0))[0] != (generation, None)
        if fresh:
            await self._store.apply_queue(_queue(body, spec))
        await self._show("queues", body, {}, [Said("Accepted", True, "Accepted", "the limits are in force")])
        if fresh:
            await self._tell_tasks(namespace, name)
            self._versions[uid] = ((generation, None), 0)

    async def _tell_tasks(self, namespace: str, queue: str) -> None:
        """The Tasks of a queue show whether it is there; all else of them is for their own events.

        One that changed since it was last seen is left alone: its event is on its way, and asks for the queue anew.
        """
        said = [await self._queue_found(namespace, queue)]
        for key in list(self._tasks):
            task = self._tasks.get(key)  # as it is by now: others are at work meanwhile
            if task is None or key[0] != namespace or raw.text(task, "spec", "queue") != queue or not self._taken(task):
                continue
            changed = changes(task, {"conditions": merged(task, said, self._clock())})
            if changed:
                version = raw.text(task, "metadata", "resourceVersion")
                await tell_task(self._objects, *key, changed, resource_version=version)

    def _taken(self, task: Object) -> bool:
        """Its rows are of this generation: it was neither refused nor is it still to be taken."""
        known = self._versions.get(raw.uid(task))
        return known is not None and known[0] == (_generation(task), _restart(task))

    async def again(self) -> None:
        """Try the Runs that there was no room for, oldest first; a turn of a loop. One that is refused speaks for those
        that are after the same room.
        """
        full: set[object] = set()
        for key, body in list(self._later.items()):
            room = (key[0], raw.text(body, "spec", "task"), raw.text(body, "spec", "throttle", "key"))
            if room not in full and self._later.get(key) is body:
                await self.on_run(body, deleted=False)
                if key in self._later:
                    full.add(room)

    async def on_run(self, body: Object, *, deleted: bool) -> None:
        namespace, name, uid = raw.namespace(body), raw.name(body), raw.uid(body)
        if deleted:
            self._later.pop((namespace, name), None)
            await self._store.forget_cr(namespace, name, uid)
            return
        known = raw.text(body, "status", "runID")
        if raw.text(body, "spec", "runID") or known:
            await self._cancel(body, known)
            return
        accepted = raw.condition(body, "Accepted")
        if accepted.get("status") == "False" and accepted.get("reason") not in _LATER:
            return
        try:
            created = await self._create(body)
        except Refused as refused:
            told = (namespace, name) in self._later or accepted.get("reason") == refused.reason
            if refused.reason in _LATER:
                self._later[namespace, name] = body
            else:
                self._later.pop((namespace, name), None)
            if not (told and refused.reason in _LATER):
                await self._refuse(body, refused)
            return
        self._later.pop((namespace, name), None)
        if raw.flag(body, "spec", "cancel"):
            await self._store.cancel_run(created.run_id, f"Run {name}")

    async def _create(self, body: Object) -> Created:
        spec = _parsed(RunSpec, body)
        text = json.dumps(raw.at(body, "spec", "input"), ensure_ascii=False, separators=(",", ":"))
        size = len(text.encode(errors="replace"))
        if size > self._max_input:
            raise Refused(
                "InputTooLarge",
                f"spec.input has {size} bytes, a Run object may carry {self._max_input}: create the run through the "
                "HTTP API (up to 1 MB), or pass a reference to the data",
            )
        bad = check_text(text)
        if bad:
            raise Refused("InvalidInput", f"spec.input {bad.path}: {bad.detail}")
        try:
            created = await self._store.create_run(new_run(body, spec, text))
        except ConflictError as error:
            raise Refused(_camel(error.code), str(error)) from error
        except (InvalidInputError, NotFoundError) as error:
            raise Refused("InvalidInput", str(error)) from error
        except (QueueFullError, ThrottledError) as error:
            raise Refused(_camel(error.code), f"{error}; this Run is taken when there is room") from error
        if created.duplicate and created.name != raw.name(body):
            raise Refused(
                "Duplicate",
                f"run {created.name} already has {shared(spec)}:"
                " this Run does nothing, and deleting it cancels nothing",
            )
        return created

    async def _cancel(self, body: Object, known: str) -> None:
        """`cancel: true` on a Run that has its row. Only status, which we alone write, is believed to name it."""
        run_id = _uuid(known)
        if not raw.flag(body, "spec", "cancel") or run_id is None or raw.text(body, "status", "phase") in _ENDED:
            return
        try:
            await self._store.cancel_run(run_id, f"Run {raw.name(body)}")
        except NotFoundError:
            log.warning("run_of_object_missing", run=known, name=raw.name(body))

    async def _refuse(self, body: Object, refused: Refused) -> None:
        status = run_cr.refused(
            refused.reason, refused.message, self._clock(), raw.number(body, "metadata", "generation")
        )
        await self._patch_status("runs", body, status)

    async def _queue_found(self, namespace: str, queue: str) -> Said:
        if queue == DEFAULT_QUEUE or await self._objects.get_object("queues", namespace, queue):
            return Said("QueueFound", True, "QueueFound", f"queue {queue}")
        message = f"no Queue {queue} in namespace {namespace}: runs are held until it is applied"
        return Said("QueueFound", False, "QueueNotFound", message)

    async def _show(self, plural: Plural, body: Object, status: Manifest, said: list[Said]) -> None:
        full: Manifest = {
            "observedGeneration": raw.number(body, "metadata", "generation"),
            **status,
            "conditions": merged(body, said, self._clock()),
        }
        changed = changes(body, full)
        if changed:
            await self._patch_status(plural, body, changed)

    async def _patch_status(self, plural: Plural, body: Object, status: Manifest) -> None:
        patch: Manifest = {"metadata": {"uid": raw.uid(body)}, "status": status}
        try:
            await self._objects.patch_status(plural, raw.namespace(body), raw.name(body), patch)
        except UnavailableError:
            raise
        except MilepostError as error:
            log.info("status_not_written", kind=plural, name=raw.name(body), error=str(error))


def _generation(body: Object) -> int:
    return raw.number(body, "metadata", "generation") or 0


def _restart(body: Object) -> str | None:
    return clipped(raw.text(body, "metadata", "annotations", RESTART_ANNOTATION), 256) or None


def _task(body: Object, spec: TaskSpec) -> TaskIntake:
    shape, policy = shape_of(spec), policy_of(spec)
    for kind, quantities in raw.part(shape, "resources").items():
        for key, value in raw.part(quantities).items():
            _positive(f"spec.resources.{kind}.{key}", str(value), zero=kind == "requests")
    return TaskIntake(
        namespace=raw.namespace(body),
        name=raw.name(body),
        uid=raw.uid(body),
        generation=_generation(body),
        shape=shape,
        queue=policy.queue,
        retry=policy.retry,
        timeouts=policy.timeouts,
        concurrency=spec.concurrency,
        semaphores=[Semaphore(s.name, s.limit, s.units or 1) for s in spec.semaphores or ()],
        retention=retention_of(spec),
        record_limits=record_limits_of(spec),
        warm=warm_of(spec),
        network=network_of(spec),
        prepull=spec.prepull,
        restart=_restart(body),
        on_change=spec.on_change or "fail",
        versioning=spec.versioning or "pinned",
        input_schema=_schema_text(spec.input_schema),
        output_schema=_schema_text(spec.output_schema),
    )


async def _schema(field: str, value: dict[str, object] | None) -> Schema | None:
    """Beside the event loop: a hostile one takes a while to be read."""
    if value is None:
        return None
    try:
        return await asyncio.to_thread(read_schema, cast("JSON", value))
    except InvalidInputError as error:
        raise Refused("InvalidSchema", f"spec.{field}: {error}") from error


def _schema_text(value: dict[str, object] | None) -> str | None:
    return None if value is None else schema_text(cast("JSON", value))


def _queue(body: Object, spec: QueueSpec) -> QueueIntake:
    per_key = spec.per_key or PerKey()
    return QueueIntake(
        raw.namespace(body),
        raw.name(body),
        raw.uid(body),
        _generation(body),
        spec.concurrency,
        key_concurrency=per_key.concurrency,
        rate=_rate(spec.rate),
        key_rate=_rate(per_key.rate),
        max_depth=spec.max_depth,
        paused=bool(spec.paused),
        breaker=breaker_policy(spec),
        pause_on=spec.pause_on or (),
    )


def _rate(spec: RateSpec | None) -> Rate | None:
    return None if spec is None else Rate(spec.limit, spec.period_seconds, spec.algorithm or "window", spec.burst)


def _positive(path: str, value: str, *, zero: bool) -> None:
    try:
        number = quantity.value(value)
    except ValueError as error:
        raise Refused("Invalid", f"{path}: {error}") from error
    if number < 0 or (number == 0 and not zero):
        raise Refused("Invalid", f"{path}: {value} must be above 0")


def _parsed(model: type[M], body: Object) -> M:
    """What the API server's schema let through is checked once more: it may be of an older release."""
    try:
        return model.model_validate(raw.part(body, "spec"))
    except ValidationError as error:
        raise Refused("Invalid", _first(error)) from error


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, with its path."""
    found = error.errors(include_url=False)[0]
    return f"{'.'.join(['spec', *(str(step) for step in found['loc'])])}: {found['msg']}"


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _camel(code: str) -> str:
    return "".join(word.capitalize() for word in code.split("-"))
