"""Commands of one's own (acceptance R 218-220, 222), and stopping workers from afar (Q 209-211)."""

from __future__ import annotations

import textwrap

import pytest

from support import ledger, workers
from support.wait import wait_for

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet", "asyncio"]
PLACES = [*(("redis", pool) for pool in POOLS), ("amqp", "prefork"), ("sqlite", "threads")]


@pytest.fixture
def place(request, tmp_path):
    """A broker's URL, and a module with commands as in the guide."""
    (tmp_path / "steered.py").write_text(
        textwrap.dedent(
            """
            import os
            from framework import App
            from framework.worker.control import Panel, control_command, inspect_command

            app = App("steered", broker=os.environ["TEST_BROKER_URL"])

            @app.task(name="steered.noop", ignore_result=True)
            def noop():
                pass

            @Panel.register
            def increase_prefetch_count(state, n=1):
                state.consumer.qos.increment_eventually(n)
                return {"ok": "prefetch count incremented"}

            @inspect_command()
            def current_prefetch_count(state):
                return {"prefetch_count": state.consumer.qos.value, "node": state.hostname}

            @control_command(args=[("n", int)], signature="[N=1]", visible=False)
            def hidden(state, n=1):
                return {"ok": n}

            @control_command()
            def failing(state):
                raise RuntimeError("boom")
            """
        )
    )
    return request.getfixturevalue(f"{request.param}_url"), tmp_path


@pytest.mark.acceptance(218, 219, 220, 223)
@pytest.mark.parametrize(("place", "pool"), PLACES, indirect=["place"])
def test_a_command_of_ones_own(place, pool, start_worker, client):
    url, directory = place
    worker = start_worker("-P", pool, "-c", "2", "-n", "w@here", app="steered", app_dir=directory, broker=url)
    app = client(url)

    def ask(command, **arguments):
        (reply,) = app.control.broadcast(command, arguments, reply=True, timeout=10, limit=1)
        return reply["w@here"]

    before = ask("stats")["prefetch_count"]
    assert ask("increase_prefetch_count") == {"ok": "prefetch count incremented"}
    assert ask("increase_prefetch_count", n=3) == {"ok": "prefetch count incremented"}
    wait_for(lambda: ask("stats")["prefetch_count"] == before + 4, 30, "the prefetch count to rise")
    assert ask("current_prefetch_count") == {"prefetch_count": before + 4, "node": "w@here"}
    assert ask("hidden", n="7") == {"ok": "7"}, "strings stay what they are where nothing is declared"
    assert ask("failing") == {"error": "RuntimeError('boom')"}
    assert worker.running


@pytest.mark.acceptance(68, 222)
@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_the_command_line_knows_commands_of_the_application(place, start_worker):
    url, directory = place
    start_worker("-P", "solo", "-n", "w@here", app="steered", app_dir=directory, broker=url)
    env = workers.app_environment(broker=url)

    def run(*words):
        return workers.run_command("-A", "steered", *words, app_dir=directory, env=env)

    done = run("control", "increase_prefetch_count", "3")
    assert done.stdout.splitlines() == ["->  w@here: OK", "        prefetch count incremented"]
    listed = run("control", "--list").stdout
    assert "increase_prefetch_count [N]" in listed
    assert "hidden" not in listed
    done = run("control", "hidden", "3")
    assert done.returncode == 2
    assert "there is no control command hidden" in done.stderr
    done = run("control", "failing")
    assert done.stdout.startswith("->  w@here: ERROR")


@pytest.mark.acceptance(72)
@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_commands_without_a_method_are_reached_by_broadcast(place, start_worker, client):
    url, _ = place
    start_worker("-P", "solo", "-n", "w@here", broker=url)
    app = client(url)
    assert app.control.broadcast("heartbeat") is None
    assert app.control.broadcast("heartbeat", reply=True, timeout=10) == [{"w@here": None}]


@pytest.mark.acceptance(211)
@pytest.mark.parametrize(("place", "pool"), PLACES, indirect=["place"])
def test_ping_as_in_the_guide(place, pool, start_worker, client):
    url, _ = place
    start_worker("-P", pool, "-n", "w@here", broker=url)
    # The time-out is a second of the guide's; what counts is the answer.
    assert client(url).control.ping(timeout=5, limit=1) == [{"w@here": {"ok": "pong"}}]


@pytest.mark.acceptance(191)
@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_scheduled_holds_no_periodic_tasks(place, start_worker, client):
    url, _ = place
    schedule = {"often": {"task": "proj.add", "schedule": 1.0, "args": [1, 2]}}
    start_worker("-P", "solo", "-n", "w@here", broker=url, conf={"beat_schedule": schedule})
    assert client(url).control.inspect(timeout=10).scheduled() == {"w@here": []}


@pytest.mark.acceptance(209)
@pytest.mark.parametrize(("place", "pool"), PLACES, indirect=["place"])
def test_shutdown_lets_running_tasks_finish(place, pool, start_worker, client, ledger_path):
    url, _ = place
    backend = "rpc://" if url.startswith("amqp") else url
    app = client(url, backend)
    worker = start_worker("-P", pool, "-c", "2", "-n", "w@here", broker=url, backend=backend, ledger=ledger_path)
    result = app.tasks["proj.sleeptask"].delay(0.5, "x")
    wait_for(lambda: ledger.read(ledger_path)["start:x"] == 1, 20, "the task to start")
    # Answered, unlike Celery's.
    assert app.control.shutdown(reply=True, timeout=10, limit=1) == [{"w@here": {"ok": "shutting down"}}]
    assert result.get(timeout=20) == 0.5
    assert worker.wait() == 0
    assert "Got shutdown from remote" in worker.output


@pytest.mark.acceptance(210)
@pytest.mark.parametrize("place", ["redis"], indirect=True)
def test_shutdown_of_one(place, start_worker, client):
    url, _ = place
    app = client(url)
    one, two = (start_worker("-P", "solo", "-n", f"{name}@here", broker=url) for name in ("one", "two"))
    with pytest.raises(ValueError, match="must be a list or tuple"):
        app.control.broadcast("shutdown", destination="one@here")
    app.control.broadcast("shutdown", destination=["one@here"])
    assert one.wait() == 0
    assert [list(reply) for reply in app.control.ping(timeout=10)] == [["two@here"]]
    assert two.running
