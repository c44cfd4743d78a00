"""Attributes of tasks that the settings give them."""

from __future__ import annotations

import pytest

from framework import App, Task
from framework.exceptions import ConfigError


@pytest.fixture
def make():
    made = []

    def make(annotations):
        app = App("proj", broker="memory://annotated", set_as_current=False, task_annotations=annotations)
        made.append(app)

        @app.task(name="proj.add", rate_limit="1/s")
        def add(x, y):
            return x + y

        return add

    yield make
    for app in made:
        app.close()


class Quick:
    def annotate(self, task):
        return {"priority": 3} if task.name.startswith("proj.") else None


@pytest.mark.parametrize(
    "annotations",
    [
        {"*": {"rate_limit": "5/s", "time_limit": 7}, "proj.add": {"rate_limit": "10/s"}},
        [{"proj.add": {"rate_limit": "5/s"}}, {"proj.add": {"rate_limit": "10/s"}, "*": {"time_limit": 7}}],
    ],
)
def test_settings_win_over_the_task_and_its_name_over_all(make, annotations):
    policy = make(annotations).policy
    assert (policy.rate_limit, policy.time_limit) == (10.0, 7)


def test_they_hold_for_what_is_sent_and_for_handlers(make):
    heard = []

    def on_success(self, retval, task_id, args, kwargs):
        heard.append((self.name, retval))

    add = make([{"proj.add": {"queue": "quick", "on_success": on_success}}, Quick()])
    plan = add.app.sender.plan(add.name, add)
    assert (plan.options["queue"], plan.priority) == ("quick", 3)
    assert add.apply((1, 2)).get() == 3
    assert heard == [("proj.add", 3)]
    assert not hasattr(Task, "queue") or Task.queue is None


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        ({"proj.add": {"rate_limits": 1}}, "proj.add has no attribute 'rate_limits'; did you mean rate_limit"),
        ({"proj.add": 5}, "proj.add must have a table of attributes, not 5"),
        (5, "must map names of tasks to attributes, not 5"),
    ],
)
def test_what_tasks_do_not_have_is_refused(make, annotations, text):
    with pytest.raises(ConfigError, match=text):
        make(annotations).policy  # noqa: B018 - looking is what fails
