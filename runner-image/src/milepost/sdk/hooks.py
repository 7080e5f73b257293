"""What runs around a task's function: middleware, and hooks at its start, resume, success and failure."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import isawaitable
from typing import Final

from milepost.sdk.context import Context
from milepost.sdk.failed import OURS
from milepost.sdk.journal import Journal
from milepost.sdk.retry import verdict_of
from milepost.sdk.run import RunInfo
from milepost.sdk.scope import Scope, scope
from milepost.sdk.sync import SyncContext
from milepost.sdk.task import Body, Hook, TaskFunction, When

FAILED_ITSELF: Final = "the failure hook %s raised itself: it does not change how the run ends"


def is_last(error: Exception, run: RunInfo, when: When | None, journal: Journal) -> bool:
    """Tell whether the run fails for good when this attempt fails with this error."""
    if isinstance(error, OURS):
        return False  # fenced, or no sidecar: nothing failed
    if journal.changed is not None:
        return not journal.attempt.holds  # held, it waits for a decision
    return verdict_of(error, when).retryable is False or run.failures + 1 >= run.max_attempts


async def run_async(context: Context, task: TaskFunction[..., object], body: Body) -> object:
    """Run an async task's function with all that is around it."""
    hooks, journal = task.hooks, context._journal  # noqa: SLF001  (the runner's side of a context)

    async def inner() -> object:
        for key, hook in _keyed("on_start", hooks.start):
            await context.step(key, _step_async(hook, context), key=key)
        if context.run.attempt > 1:
            with _beside("on_resume", context.run):
                for hook in hooks.resume:
                    await _result(hook(context))
        value = await _result(body())
        task.binding.result(value, *journal.attempt.result_limit)  # what can't be the result is no success
        for key, hook in _keyed("on_success", hooks.success):
            await context.step(key, _step_async(hook, context, value), key=key)
        return value

    call: Callable[[], Awaitable[object]] = inner
    for layer in reversed(hooks.middleware):
        call = _layer_async(layer, context, call)
    try:
        return await call()
    except Exception as error:
        if is_last(error, context.run, task.retry_when, journal):
            with _beside("on_failure", context.run):
                for hook in hooks.failure:
                    try:
                        await _result(hook(context, error))
                    except OURS:
                        raise
                    except Exception:
                        context.log.exception(FAILED_ITSELF, _name(hook))
        raise


def run_plain(context: SyncContext, task: TaskFunction[..., object], body: Body) -> object:
    """Run a plain task's function with all that is around it."""
    hooks, journal = task.hooks, context._journal  # noqa: SLF001  (the runner's side of a context)

    def inner() -> object:
        for key, hook in _keyed("on_start", hooks.start):
            context.step(key, _step(hook, context), key=key)
        if context.run.attempt > 1:
            with _beside("on_resume", context.run):
                for hook in hooks.resume:
                    hook(context)
        value = body()
        task.binding.result(value, *journal.attempt.result_limit)  # what can't be the result is no success
        for key, hook in _keyed("on_success", hooks.success):
            context.step(key, _step(hook, context, value), key=key)
        return value

    call: Body = inner
    for layer in reversed(hooks.middleware):
        call = _layer(layer, context, call)
    try:
        return call()
    except Exception as error:
        if is_last(error, context.run, task.retry_when, journal):
            with _beside("on_failure", context.run):
                for hook in hooks.failure:
                    try:
                        hook(context, error)
                    except OURS:
                        raise
                    except Exception:
                        context.log.exception(FAILED_ITSELF, _name(hook))
        raise


@contextmanager
def _beside(kind: str, run: RunInfo) -> Iterator[None]:
    """Give hooks that run in some attempts only a scope of their own: the task's own steps keep their places."""
    token = scope.set(Scope.beside(f"{kind}/{run.attempt}"))
    try:
        yield
    finally:
        scope.reset(token)


def _keyed(kind: str, hooks: Sequence[Hook]) -> Iterator[tuple[str, Hook]]:
    """Keys of their own: hooks may be added and taken away without touching the order of the task's steps."""
    seen: dict[str, int] = {}
    for hook in hooks:
        key = f"{kind}/{_name(hook)}"
        seen[key] = seen.get(key, 0) + 1
        yield (key if seen[key] == 1 else f"{key}/{seen[key]}"), hook


def _name(hook: Hook) -> str:
    name = str(getattr(hook, "__name__", "hook"))
    return name if name.isidentifier() else "hook"


def _step_async(hook: Hook, *args: object) -> Callable[[], Awaitable[None]]:
    async def run() -> None:  # what a hook returns is nobody's
        await _result(hook(*args))

    return run


def _step(hook: Hook, *args: object) -> Callable[[], None]:
    def run() -> None:
        hook(*args)

    return run


def _layer_async(
    layer: Hook, context: Context, inner: Callable[[], Awaitable[object]]
) -> Callable[[], Awaitable[object]]:
    async def call() -> object:
        return await _result(layer(context, inner))

    return call


def _layer(layer: Hook, context: SyncContext, inner: Body) -> Body:
    return lambda: layer(context, inner)


async def _result(value: object) -> object:
    return await value if isawaitable(value) else value
