"""Calls a task with a run's input, and what runs around it."""

from inspect import isawaitable

from milepost.sdk.context import Context
from milepost.sdk.sync import SyncContext
from milepost.sdk.task import TaskFunction
from milepost.wire.values import JSON


def call_plain(task: TaskFunction[..., object], context: SyncContext, data: JSON) -> object:
    """Call a plain task."""
    context.arrive(task.layout, task.migrate)

    def call() -> object:
        return task.bind(context, data)()

    if not task.hooks:
        return call()
    from milepost.sdk.hooks import run_plain  # noqa: PLC0415  (tasks without hooks never pay for it)

    return run_plain(context, task, call)


async def call_async(task: TaskFunction[..., object], context: Context, data: JSON) -> object:
    """Call an async task."""
    await context.arrive(task.layout, task.migrate)

    def call() -> object:
        return task.bind(context, data)()

    if task.hooks:
        from milepost.sdk.hooks import run_async  # noqa: PLC0415  (tasks without hooks never pay for it)

        return await run_async(context, task, call)
    value = call()
    return await value if isawaitable(value) else value
