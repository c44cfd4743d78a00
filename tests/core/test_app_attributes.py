"""Attributes of an application: the class of its tasks, and those that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from framework import App, Task, current_app, shared_task


@pytest.fixture
def app():
    app = App("proj", broker="memory://", backend="none://")
    yield app
    app.close()


def context_task(base: type[Task], calls: list[str]) -> type[Task]:
    """As the manual of Flask has it."""

    class ContextTask(base):
        abstract = True
        queue = "media"

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(self.name)
            return self.run(*args, **kwargs)

    return ContextTask


@pytest.mark.parametrize("name", ["Task", "task_class"])
def test_the_class_of_tasks_can_be_set(app, name):
    calls: list[str] = []

    @app.task(name="early")
    def early() -> int:
        return 1

    @app.task(name="own", base=type("Own", (Task,), {}))
    def own() -> int:
        return 2

    early.delay()
    assert app.Task is app.task_class is Task
    kind = context_task(app.Task, calls)
    setattr(app, name, kind)
    assert app.Task is app.task_class is kind

    @app.task(name="late", bind=True)
    def late(self: Any) -> int:
        return 3

    shared = shared_task(name="shared of an app")(lambda: 4)
    assert [task.apply().get() for task in (early, own, late, shared)] == [1, 2, 3, 4]
    assert calls == ["early", "late", "shared of an app"]
    assert [isinstance(task, kind) for task in (early, own, late)] == [True, False, True]
    early.delay()
    assert app.transport.sizes([app.queue_for("celery"), app.queue_for("media")]) == {"celery": 1, "media": 1}


def test_the_class_of_tasks_is_set_through_the_current_application(app):
    app.set_current()
    current_app.Task = kind = context_task(current_app.Task, [])
    assert app.task_class is kind
    assert App("other", task_cls=kind, set_as_current=False).Task is kind


@pytest.mark.parametrize("value", [None, "proj.Task", object, Task()])
def test_the_class_of_tasks_must_be_one(app, value):
    with pytest.raises(TypeError, match="must be a subclass of Task"):
        app.Task = value
    assert app.Task is Task


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("task_cls", "did you mean task_class"),
        ("tasks_class", "did you mean task_class"),
        ("task_always_eager", r"app\.conf"),
        ("flask_app", "a subclass of App may have attributes of its own"),
        ("AsyncResults", "did you mean AsyncResult"),
        ("user_options", "no effect"),
        ("steps", "no effect"),
        ("on_after_configure", "no effect"),
    ],
)
def test_an_attribute_that_means_nothing_is_refused(app, name, hint):
    with pytest.raises(AttributeError, match=hint):
        setattr(app, name, 1)
    assert not hasattr(app, name)


def test_what_an_application_has_can_be_set_and_a_subclass_has_more(app, monkeypatch):
    app.main = "other"
    monkeypatch.setattr(app, "send_task", len)
    assert app.send_task("abc") == 3

    class Mine(App):
        pass

    mine = Mine("mine", set_as_current=False)
    mine.flask_app = 5
    mine.Task = kind = context_task(Task, [])
    assert (mine.flask_app, mine.task_class) == (5, kind)
