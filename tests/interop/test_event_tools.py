"""Celery's own tools hear our workers' events, and ours hear Celery's (acceptance Q 215, 217; G 75 for events)."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from support import workers
from support.ports import free_port
from support.processes import kill_all, members, spawn, tail
from support.terminal import on_a_terminal
from support.wait import wait_for

BROKERS = ["redis", "amqp"]
CELERY = [sys.executable, "-m", "celery", "-A", "celeryproj"]
OURS = [sys.executable, "-m", "framework", "-A", "proj"]


@pytest.fixture(params=BROKERS)
def place(request, redis_server) -> SimpleNamespace:
    """A broker and a result store, and the environment that names them to both sample applications."""
    url = request.getfixturevalue(f"{request.param}_url")
    results = redis_server.fresh_url()
    env = workers.environment(workers.app_environment(broker=url, backend=results))
    return SimpleNamespace(url=url, results=results, env=env)


@pytest.fixture
def run_tool(tmp_path, place) -> Iterator:
    """Start a program; returns what reads its output so far."""
    with contextlib.ExitStack() as stack:

        def start(*argv: str, **env: str):
            log = tmp_path / f"tool-{len(argv)}-{argv[-1].strip('-')[:20].replace('/', '_')}.log"
            process = spawn(argv, log=log, cwd=workers.APP_DIR, env={**place.env, **env})
            stack.callback(lambda: (kill_all(members(process.pid)), process.wait(10)))

            def output(pattern: str, timeout: float = 20) -> re.Match[str]:
                def found():
                    text = log.read_text(errors="replace") if log.exists() else ""
                    return re.search(pattern, text, re.MULTILINE) or (process.poll() is not None and "ended")

                match = wait_for(found, timeout, lambda: f"/{pattern}/ in:\n{tail(log)}")
                assert isinstance(match, re.Match), f"{argv} ended:\n{tail(log)}"
                return match

            return output

        yield start


@pytest.fixture
def celery_app(celery_client, place):
    return celery_client(place.url, place.results)


@pytest.mark.acceptance(215)
def test_celery_events_dump_shows_our_tasks(place, run_tool, start_worker, celery_app):
    worker = start_worker("-E", "-c", "2", broker=place.url, backend=place.results)
    output = run_tool(*CELERY, "events", "--dump")
    output(rf"^{worker.node} \[.*\] heartbeat: ")
    result = celery_app.tasks["proj.add"].delay(2, 3)
    task = re.escape(f"proj.add({result.id}) args=(2, 3) kwargs={{}}")
    output(rf"^{worker.node} \[.*\] task received: {task} .*retries=0")
    output(rf"^{worker.node} \[.*\] task started: {task} ")
    output(rf"^{worker.node} \[.*\] task succeeded: {task} .*result=5, runtime=")
    worker.stop()
    output(rf"^{worker.node} \[.*\] shutdown: ")


@pytest.mark.acceptance(215)
def test_celerys_live_screen_shows_our_tasks(place, start_worker, celery_app):
    worker = start_worker("-E", "-c", "1", broker=place.url, backend=place.results)
    with on_a_terminal([*CELERY, "events"], place.env) as terminal:
        seen = terminal.seen
        wait_for(lambda: "Keys:" in seen(), 20, seen)

        def told() -> bool:
            celery_app.tasks["proj.add"].delay(2, 3)
            return "proj.add" in seen() and "SUCCESS" in seen()

        wait_for(told, 20, seen)
    assert worker.running


@pytest.mark.acceptance(215)
def test_celerys_camera_photographs_our_tasks(tmp_path, place, run_tool, start_worker, celery_app):
    album = tmp_path / "album"
    (tmp_path / "cameras.py").write_text(
        "from celery.events.snapshot import Polaroid\n"
        "class Camera(Polaroid):\n"
        "    def on_shutter(self, state):\n"
        f"        with open({str(album)!r}, 'a') as file:\n"
        "            for uuid, task in state.tasks.items():\n"
        "                file.write(f'{uuid} {task.name} {task.state}\\n')\n"
    )
    start_worker("-E", "-c", "1", broker=place.url, backend=place.results)
    path = f"{tmp_path}:{place.env['PYTHONPATH']}"
    output = run_tool(*CELERY, "events", "--camera", "cameras.Camera", "--freq", "0.2", PYTHONPATH=path)
    output("Taking snapshots")

    def taken() -> bool:
        result = celery_app.tasks["proj.add"].delay(2, 3)
        result.get(timeout=30)
        return album.exists() and " proj.add SUCCESS" in album.read_text()

    wait_for(taken, 20)


@pytest.mark.acceptance(217)
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_celerys_state_understands_our_events(pool, place, start_worker, celery_app):
    state = celery_app.events.State()
    raw: list[dict] = []

    def take(event):
        raw.append(dict(event))
        state.event(event)

    worker = None
    with celery_app.connection() as connection:
        receiver = celery_app.events.Receiver(connection, handlers={"*": take})
        thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False})
        thread.start()
        try:
            worker = start_worker("-E", "-P", pool, "-c", "2", broker=place.url, backend=place.results)

            def hears() -> bool:
                celery_app.control.broadcast("heartbeat")
                return bool(state.workers) and next(iter(state.workers.values())).alive

            wait_for(hears, 20)
            tasks = celery_app.tasks
            ok = [tasks["proj.add"].delay(number, 1) for number in range(30)]
            failed = tasks["proj.fail"].delay("on purpose")
            celery_app.control.revoke("not-wanted", reply=True)
            revoked = tasks["proj.add"].apply_async((1, 1), task_id="not-wanted")
            ends = {**{each.id: "SUCCESS" for each in ok}, failed.id: "FAILURE", revoked.id: "REVOKED"}
            wait_for(
                lambda: {uuid: state.tasks[uuid].state for uuid in ends if uuid in state.tasks} == ends,
                30,
                lambda: str({uuid: state.tasks[uuid].state for uuid in ends if uuid in state.tasks}),
            )
        finally:
            receiver.should_stop = True
            thread.join(10)
    task = state.tasks[ok[4].id]
    assert (task.name, task.args, task.kwargs, task.result) == ("proj.add", "(4, 1)", "{}", "5")
    assert task.worker.hostname == worker.node
    assert task.runtime >= 0
    assert task.received <= task.started <= task.succeeded
    assert state.tasks[failed.id].exception == "ValueError('on purpose')"
    assert "Traceback" in state.tasks[failed.id].traceback
    assert state.workers[worker.node].sw_ident == "framework"
    assert all(isinstance(event["clock"], int) for event in raw)


@pytest.mark.acceptance(75)
def test_flower_lists_our_worker_and_its_tasks(place, run_tool, start_worker, celery_app):
    """Flower switches events on by itself, and fills its list of tasks from them."""
    worker = start_worker("-c", "2", broker=place.url, backend=place.results)
    port = free_port()
    output = run_tool(
        *CELERY, "flower", "--address=127.0.0.1", f"--port={port}", "--enable_events", FLOWER_UNAUTHENTICATED_API="true"
    )
    output("Visit me at|Connected to")

    def ask(path: str):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as page:
            return json.load(page)
        return None

    wait_for(lambda: worker.node in (ask("/api/workers?refresh=1") or {}), 40, "Flower to list the worker")
    wait_for(lambda: worker.lines("Task events are sent"), 20, "Flower to switch events on")
    ok = [celery_app.tasks["proj.add"].delay(number, number) for number in range(5)]
    failed = celery_app.tasks["proj.fail"].delay("on purpose")
    ends = {**{each.id: "SUCCESS" for each in ok}, failed.id: "FAILURE"}

    def states():
        return {uuid: task["state"] for uuid, task in (ask("/api/tasks") or {}).items() if uuid in ends}

    wait_for(lambda: states() == ends, 40, lambda: str(states()))
    info = ask(f"/api/task/info/{ok[3].id}")
    assert (info["name"], info["args"], info["result"], info["worker"]) == ("proj.add", "(3, 3)", "6", worker.node)
    assert ask(f"/api/task/info/{failed.id}")["exception"] == "ValueError('on purpose')"
    assert "proj.add" in ask("/api/task/types")["task-types"]

    def tell(path: str, **arguments: object) -> str:
        """POST as Flower's pages do; returns what the worker said."""
        data = urllib.parse.urlencode(arguments).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api{path}", data, timeout=30) as page:
            return str(json.load(page)["message"])

    def pool() -> int:
        return celery_app.control.inspect([worker.node], timeout=10).stats()[worker.node]["pool"]["max-concurrency"]

    node = worker.node
    tell(f"/worker/pool/grow/{node}", n=2)
    assert pool() == 4
    tell(f"/worker/pool/shrink/{node}", n=3)
    assert pool() == 1
    assert "started consuming from 'extra'" in tell(f"/worker/queue/add-consumer/{node}", queue="extra")
    assert celery_app.tasks["proj.add"].apply_async((1, 2), queue="extra").get(timeout=30) == 3
    assert "no longer consuming from" in tell(f"/worker/queue/cancel-consumer/{node}", queue="extra")
    assert "new rate limit set" in tell("/task/rate-limit/proj.add", workername=node, ratelimit="100/s")
    assert "time limits set" in tell("/task/timeout/proj.add", workername=node, soft=10, hard=20)
    running = celery_app.tasks["proj.sleeptask"].delay(60)
    wait_for(lambda: running.state == "STARTED" or ask(f"/api/task/info/{running.id}"), 20, "the long task to start")
    tell(f"/task/revoke/{running.id}?terminate=true&signal=SIGKILL")
    wait_for(lambda: running.state == "REVOKED", 20, "the long task to be ended")
    tell(f"/worker/shutdown/{node}")
    assert worker.wait() == 0


@pytest.mark.acceptance(217)
def test_an_exporter_made_for_celery_measures_our_worker(place, run_tool, start_worker, celery_app):
    """It counts workers with `ping` and tasks by their events, which it switches on by itself."""
    worker = start_worker("-c", "2", broker=place.url, backend=place.results)
    port = free_port()
    run_tool(
        str(Path(sys.executable).parent / "celery-prometheus-exporter"),
        f"--broker={place.url}",
        f"--addr=127.0.0.1:{port}",
        "--enable-events",
    )

    def metrics() -> str:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            return str(page.read(), "utf-8")
        return ""

    wait_for(lambda: worker.lines("Task events are sent"), 30, "the exporter to switch events on")
    wanted = (
        "celery_workers 1.0",
        'celery_tasks{state="SUCCESS"} ',
        'celery_tasks{state="FAILURE"} ',
        'celery_tasks_by_name{name="proj.add",state="SUCCESS"} ',
        'celery_tasks_by_name{name="proj.fail",state="FAILURE"} ',
        'celery_tasks_runtime_seconds_count{name="proj.add"} ',
        "celery_task_latency_count ",
    )

    def measured() -> bool:
        # It asks for events before it listens, so the first tasks may be lost on it.
        celery_app.tasks["proj.add"].delay(1, 1)
        celery_app.tasks["proj.fail"].delay("on purpose")
        found = metrics()
        return all(line in found and f"{line}0.0" not in found for line in wanted)

    wait_for(measured, 40, metrics)


def test_our_dump_shows_the_tasks_of_a_celery_worker(place, run_tool, start_celery_worker, client):
    start_celery_worker("-E", "-P", "threads", "-c", "2", broker=place.url, backend=place.results)
    app = client(place.url, place.results, task_send_sent_event=True)
    output = run_tool(*OURS, "events", "--dump")
    node = output(r"^(\S+@\S+) \[.*\] heartbeat: ")[1]
    result = app.tasks["proj.add"].delay(2, 3)
    task = re.escape(f"proj.add({result.id}) args=(2, 3) kwargs={{}}")
    output(rf"^gen\d+@\S+ \[.*\] task sent: {task} .*queue=celery")
    output(rf"^{node} \[.*\] task received: {task} ")
    output(rf"^{node} \[.*\] task started: {task} ")
    output(rf"^{node} \[.*\] task succeeded: {task} .*result=5")


def test_our_json_and_state_understand_a_celery_worker(place, run_tool, start_celery_worker, client):
    worker = start_celery_worker("-P", "threads", "-c", "2", broker=place.url, backend=place.results)
    app = client(place.url, place.results)
    output = run_tool(*OURS, "events", "--json")
    output(r'"type":"worker-heartbeat"')
    node = worker.node
    wait_for(lambda: app.control.enable_events(reply=True, limit=1, timeout=3), 30)
    result = app.tasks["proj.fail"].delay("on purpose")
    line = output(rf'^.*"{result.id}".*"task-failed".*$|^.*"task-failed".*"{result.id}".*$')[0]
    event = json.loads(line)
    assert (event["hostname"], event["exception"]) == (node, "ValueError('on purpose')")
