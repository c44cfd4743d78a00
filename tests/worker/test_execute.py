"""Running one job: the traceback of its outcome."""

from __future__ import annotations

from framework import App
from framework.api.pool import Job
from framework.worker.execute.execute import TaskWorkload


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
