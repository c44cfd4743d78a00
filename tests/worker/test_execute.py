"""Running one job: the traceback of its outcome."""

from __future__ import annotations

import asyncio

import pytest

from framework import App
from framework.api import pool as outcomes
from framework.api.coroutine import Call
from framework.api.pool import Job
from framework.worker.execute.execute import TaskWorkload


class OfPool(BaseException):
    """What a pool raises in a job to end it."""


class OfTask(BaseException):
    """A class of the task's own."""


class Timeout(BaseException):
    """As gevent and eventlet have it."""


PAYLOAD = ({"task": "t", "id": "1"}, {}, "application/json", "utf-8", b"[[], {}, {}]")
OF_TASKS = [
    GeneratorExit("g"),
    asyncio.CancelledError("c"),
    SystemExit(3),
    KeyboardInterrupt(),
    Timeout("t"),
    BaseExceptionGroup("several", [ValueError("inside"), GeneratorExit()]),
    BaseExceptionGroup("deep", [ExceptionGroup("inner", [OSError("inside")]), asyncio.CancelledError("inside")]),
]


def workload_that_raises(error: BaseException, own_process: bool, coroutine: bool = False) -> TaskWorkload:
    app = App("execute")

    @app.task(name="t")
    def task() -> None:
        raise error

    async def atask() -> None:
        raise error

    if coroutine:
        app.task(name="a")(atask)
    interrupts = () if own_process else (OfPool,)
    settings = app.conf.settings
    return TaskWorkload(app, settings, "here", lambda: None, own_process=own_process, interrupts=interrupts)


@pytest.mark.parametrize("own_process", [True, False])
@pytest.mark.parametrize("error", OF_TASKS, ids=repr)
def test_whatever_a_task_raises_is_its_failure(error, own_process):
    outcome = workload_that_raises(error, own_process).run(Job(1, PAYLOAD, "t", "1", None, None))
    assert outcome.code == outcomes.FAILURE
    assert type(error).__name__ in outcome.traceback
    if isinstance(error, BaseExceptionGroup):
        assert "inside" in outcome.traceback


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), Timeout("t"), BaseExceptionGroup("several", [ValueError("inside"), SystemExit(1)])],
    ids=repr,
)
def test_whatever_a_coroutine_raises_is_its_failure(error):
    workload = workload_that_raises(error, False, coroutine=True)

    async def main():
        # In a task of its own, whose exceptions do not end the loop.
        return await workload.arun(Job(1, ({"task": "a", "id": "1"}, *PAYLOAD[1:]), "a", "1", None, None), Call())

    outcome = asyncio.run(main())
    assert outcome.code == outcomes.FAILURE
    assert type(error).__name__ in outcome.traceback


@pytest.mark.parametrize("own_process", [True, False])
def test_a_class_of_the_tasks_own_is_its_failure(own_process):
    outcome = workload_that_raises(OfTask("x"), own_process).run(Job(1, PAYLOAD, "t", "1", None, None))
    assert outcome.code == outcomes.FAILURE


@pytest.mark.parametrize("error", [OfPool(), BaseExceptionGroup("several", [ValueError(), OfPool()])], ids=repr)
def test_what_a_pool_raises_to_end_a_job_goes_on(error):
    with pytest.raises(type(error)):
        workload_that_raises(error, False).run(Job(1, PAYLOAD, "t", "1", None, None))


def test_a_traceback_begins_in_the_task():
    app = App("execute")

    @app.task(name="t")
    def task() -> None:
        raise ValueError("no")

    workload = TaskWorkload(app, app.conf.settings, "here", lambda: None, own_process=False)
    payload = ({"task": "t", "id": "1"}, {}, "application/json", "utf-8", b"[[], {}, {}]")
    outcome = workload.run(Job(1, payload, "t", "1", None, None))
    assert outcome.traceback.startswith("Traceback (most recent call last):")
    assert __file__ in outcome.traceback.splitlines()[1]
