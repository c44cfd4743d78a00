"""Tasks and the application: registering, naming, checking, calling, retrying."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from datetime import timedelta

import pytest

from framework import App, Task, chain, chord, current_app, current_task, group, shared_task
from framework.client.request import Context, pop_request, push_request
from framework.client.results import AsyncResult, GroupResult, result_from_tuple
from framework.exceptions import AlreadyRegistered, MaxRetriesExceededError, NotRegistered, Retry


@pytest.fixture
def app():
    app = App("proj", broker="memory://", backend="none://")
    yield app
    app.close()


def waiting(app, name="celery"):
    return app.transport.sizes([app.queue_for(name)])[name]


def test_a_task_is_registered_named_and_callable(app):
    @app.task
    def add(x, y):
        return x + y

    @app.task(name="other", queue="media", acks_late=True)
    def sub(x, y):
        return x - y

    assert add(1, 2) == 3
    assert add.name == f"{__name__}.add"
    assert app.tasks["other"] is sub
    assert (sub.policy.acks_late, sub.policy.max_deliveries, add.policy.acks_late) == (True, 3, False)
    with pytest.raises(NotRegistered):
        app.tasks["no such"]


def test_two_functions_of_one_name_are_refused(app):
    app.task(name="same")(lambda: 1)

    def other():
        pass

    with pytest.raises(AlreadyRegistered, match="same"):
        app.task(name="same")(other)


def test_an_option_that_tasks_do_not_have_is_refused(app):
    with pytest.raises(TypeError, match="did you mean acks_late"):
        app.task(acks_latte=True)(lambda: 1)


def test_wrong_arguments_are_refused_where_they_are_given(app):
    @app.task
    def add(x, y=1, *, z=0):
        return x + y + z

    for args, kwargs in [((), {}), ((1, 2, 3), {}), ((1,), {"q": 1}), ((1,), {"x": 1})]:
        with pytest.raises(TypeError, match=r"add\(\) cannot be called"):
            add.apply_async(args, kwargs)
    assert waiting(app) in (0, None)
    add.apply_async((1,), {"z": 2})
    add.delay(1, y=2)
    assert waiting(app) == 2


def test_a_bound_class_based_task_has_its_request_and_handlers(app):
    seen = []

    class Noting(Task):
        def on_success(self, retval, task_id, args, kwargs):
            seen.append((retval, task_id))

    @app.task(bind=True, base=Noting)
    def who(self, x):
        return [self.request.id, self.request.args, self.request.called_directly, x]

    assert who.apply((1,), task_id="T").get() == ["T", [1], False, 1]
    assert seen == [(["T", [1], False, 1], "T")]
    assert who(2) == [None, [2], True, 2]
    assert who.request.id is None


def test_an_eager_run_retries_and_then_gives_up(app):
    tries = []

    @app.task(bind=True, max_retries=2)
    def flaky(self, good_at):
        tries.append(self.request.retries)
        if self.request.retries < good_at:
            raise self.retry(countdown=0)
        return "done"

    assert flaky.apply((2,)).get() == "done"
    assert tries == [0, 1, 2]
    failed = flaky.apply((3,))
    assert failed.state == "FAILURE"
    with pytest.raises(MaxRetriesExceededError):
        failed.get()


def test_autoretry_retries_what_it_lists(app):
    tries = []

    @app.task(autoretry_for=(KeyError,), retry_kwargs={"max_retries": 1}, retry_backoff=True)
    def flaky(error):
        tries.append(1)
        raise KeyError("k") if error == "key" else ValueError("v")

    with pytest.raises(KeyError):
        flaky.apply(("key",)).get()
    with pytest.raises(ValueError, match="v"):
        flaky.apply(("value",)).get()
    assert len(tries) == 3


def test_autoretry_of_a_class_based_task(app):
    class Flaky(Task):
        name = "flaky"
        autoretry_for = (KeyError,)
        max_retries = 2
        retry_backoff = 5
        retry_jitter = False

        def run(self):
            waits.append(self.request.retries)
            raise KeyError("k")

    waits = []
    task = app.register_task(Flaky)
    assert app.register_task(task) is task
    with pytest.raises(KeyError):
        task.apply().get()
    assert waits == [0, 1, 2]


def test_a_backoff_of_a_fraction_still_waits_a_second(app):
    @app.task(bind=True, autoretry_for=(ValueError,), retry_backoff=0.1, retry_jitter=False)
    def flaky(self):
        raise ValueError("again")

    for retries, wait in ((0, 1), (2, 4)):
        headers = {"task": flaky.name, "id": "A", "retries": retries}
        token = push_request(Context(headers, [], {}, {}, {}, app=app, called_directly=False))
        try:
            with pytest.raises(Retry) as caught:
                flaky.run()
        finally:
            pop_request(token)
        assert caught.value.when == wait


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"priority": "high"}, TypeError, "priority must be a whole number from 0 to 255, not 'high'"),
        ({"priority": 1000}, TypeError, "priority must be a whole number"),
        ({"eta": "tomorrow"}, ValueError, "eta must be a datetime, or its text .* not 'tomorrow'"),
        ({"expires": "soon"}, ValueError, "expires must be a datetime, or its text .* not 'soon'"),
    ],
)
def test_an_option_of_a_wrong_type_is_refused_in_a_sentence(app, options, error, text):
    @app.task
    def noop():
        pass

    with pytest.raises(error, match=text):
        noop.apply_async(**options)


def test_a_time_to_expire_may_be_a_timedelta():
    with App("proj", broker="memory://expiring", set_as_current=False) as app:
        app.send_task("proj.add", expires=timedelta(minutes=1))
        assert waiting(app) == 1


def test_options_of_celerys_registry_are_taken(app):
    @app.task(shared=False, lazy=True, autoretry_for=ValueError, max_retries=0)
    def fail():
        raise ValueError("broken")

    assert fail.apply().state == "FAILURE"


def test_what_is_current_is_found_by_whoever_asks(app):
    app.set_current()

    @app.task(name="proj.who")
    def who():
        return current_task.name, current_task.request.id, bool(current_task), current_app.main

    result = who.apply()
    assert result.get() == ("proj.who", result.id, True, "proj")
    assert not current_task
    with pytest.raises(AttributeError, match="no task is running"):
        current_task.request  # noqa: B018 - looking is what fails


def test_settings_come_from_an_object_by_the_app_too(app):
    app.config_from_object({"CELERY_TASK_ACKS_LATE": True, "OTHER": 1}, namespace="CELERY")
    assert app.conf.task_acks_late is True


def test_a_task_makes_results_by_id(app):
    @app.task
    def add(x, y):
        return x + y

    result = add.AsyncResult("an-id")
    assert (result.id, result.app) == ("an-id", app)
    assert (add.s(1, 2).set(queue="a").replace(args=(3,)), add.s(1, y=2).replace(kwargs={}, options={})) == (
        add.s(3).set(queue="a"),
        add.s(1),
    )


def test_a_chain_that_is_called_is_sent(app):
    @app.task
    def add(x, y):
        return x + y

    result = chain(add.s(2), add.s(3))(1)
    assert result.parent is not None
    assert waiting(app) == 1


def test_always_eager_runs_where_it_is_called(app):
    app.conf.task_always_eager = True

    @app.task
    def add(x, y):
        return x + y

    assert add.delay(1, 2).get() == 3
    assert [result.get() for result in app.send_many(add, [(1, 1), (2, 2)])] == [2, 4]


def test_a_retry_in_a_worker_sends_the_same_call_again(app):
    @app.task(bind=True)
    def again(self, x):
        raise self.retry(countdown=5, exc=KeyError("k"))

    sent = []
    again.app.sender.publisher.publish = lambda messages, *_: sent.extend(messages)
    headers = {
        "task": again.name,
        "id": "T",
        "retries": 1,
        "root_id": "ROOT",
        "timelimit": [9, 8],
        "origin": "gen1@far",
        "x": 1,
    }
    properties = {"delivery_info": {"exchange": "", "routing_key": "media"}, "reply_to": "Q", "priority": 4}
    context = Context(headers, [7], {}, {"chain": [{"task": "c"}]}, properties, app=app, called_directly=False)
    token = push_request(context)
    try:
        with pytest.raises(Retry) as caught:
            again.run(*context.args)
    finally:
        pop_request(token)
    assert str(caught.value) == "Retry in 5s: KeyError('k')"
    (message,) = sent
    expected = {
        "id": "T",
        "retries": 2,
        "root_id": "ROOT",
        "parent_id": "T",
        "timelimit": [9, 8],
        "origin": "gen1@far",
        "x": 1,
    }
    assert {name: message.headers[name] for name in expected} == expected
    assert (message.exchange, message.routing_key, message.reply_to, message.priority) == ("", "media", "Q", 4)
    assert message.headers["eta"]
    assert b'"chain": [{"task": "c"}]' in message.body
    assert context.children_as_tuples() == [[["T", None], None]]


def test_what_a_task_sends_is_its_child(app):
    @app.task
    def leaf():
        pass

    context = Context({"task": "p", "id": "P", "root_id": "ROOT"}, [], {}, app=app, called_directly=False)
    sent = []
    app.sender.publisher.publish = lambda messages, *_: sent.extend(messages)
    token = push_request(context)
    try:
        result = leaf.delay()
        with pytest.raises(RuntimeError, match=r"Never call result\.get"):
            result.get()
    finally:
        pop_request(token)
    assert sent[0].headers["parent_id"] == "P"
    assert sent[0].headers["root_id"] == "ROOT"
    assert context.children_as_tuples() == [[[result.id, None], None]]


def test_chains_groups_and_chords_run_eagerly(app):
    @app.task
    def add(x, y):
        return x + y

    @app.task
    def total(numbers):
        return sum(numbers)

    assert (add.s(1, 2) | add.s(3)).apply().get() == 6
    assert chain(add.s(1, 2), add.s(3), add.si(1, 1)).apply().get() == 2
    assert group(add.s(n, n) for n in range(3)).apply().get() == [0, 2, 4]
    assert (group(add.s(n, n) for n in range(3)) | total.s() | add.s(1)).apply().get() == 7
    assert chord([add.s(1, 1), group(add.s(2, 2), add.s(3, 3))], total.s()).apply().get() == 12


def test_results_survive_the_trip_through_tuples():
    parent = AsyncResult("A")
    result = AsyncResult("B", parent=parent)
    assert result_from_tuple(result.as_tuple()).parent.id == "A"
    both = GroupResult("G", [parent, result])
    assert result_from_tuple(both.as_tuple()) == both


def test_a_shared_task_belongs_to_every_application(app):
    @shared_task(name="shared.double")
    def double(x):
        return 2 * x

    other = App("other", broker="memory://")
    assert app.tasks["shared.double"].app is app
    assert other.tasks["shared.double"].app is other
    app.set_current()
    try:
        assert double.app is app
        assert double.apply((2,)).get() == 4
    finally:
        from framework.client import current

        current.choose(None)
        other.close()


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"kombu", "redis", "msgspec", "pluggy", "amqp"}
    code = f"import sys, framework; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_any_configuration_there_is_an_embedded_broker(tmp_path):
    (tmp_path / "mytasks.py").write_text(
        textwrap.dedent("""
        from framework import App
        app = App()
        @app.task
        def add(x, y): return x + y
        if __name__ == "__main__":
            add.delay(1, 2)
            import glob
            print(add.name, app.transport.sizes([app.queue_for("celery")]), glob.glob("*.db"))
            app.close()
        """)
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("FRAMEWORK_", "CELERY"))}
    done = subprocess.run(
        [sys.executable, "mytasks.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "mytasks.add {'celery': 1} ['framework.db']", done.stderr
