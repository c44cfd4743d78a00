"""`framework events`: lines, JSON and snapshots in a pipe, and the live screen on a terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from framework_commands.screen import Printable
from framework_commands.screen.keys import split
from framework_commands.screen.model import Model
from framework_commands.screen.views import draw
from support import proj, workers
from support.processes import kill_all, members
from support.terminal import on_a_terminal
from support.wait import wait_for


@pytest.fixture
def place(sqlite_url):
    env = workers.environment(workers.app_environment(broker=sqlite_url, backend=sqlite_url))
    return SimpleNamespace(url=sqlite_url, env=env)


def events(*args):
    return [sys.executable, "-m", "framework", "-A", "proj", "events", *args]


def run(place, *args, **env):
    return subprocess.Popen(
        events(*args),
        cwd=workers.APP_DIR,
        env={**place.env, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process, timeout=30):
    try:
        return process.communicate(timeout=timeout)
    finally:
        kill_all(members(process.pid))


# ---------------------------------------------------------------- pipes


def test_lines(place, start_worker):
    start_worker("-E", "-P", "solo", broker=place.url, backend=place.url)
    process = run(place, "--dump", "--limit", "1", "--timeout", "20")
    out, err = finish(process)
    assert process.returncode == 0, err
    first, second = out.splitlines()
    assert first == "-> evdump: starting capture..."
    assert re.match(r"\S+@\S+ \[\d{4}-.*\+00:00\] heartbeat: clock=\d+, freq=", second)


def test_json_is_an_object_a_line(place, start_worker):
    worker = start_worker("-E", "-P", "solo", broker=place.url, backend=place.url)
    process = run(place, "--json", "--limit", "2", "--timeout", "20")
    out, err = finish(process)
    assert process.returncode == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert [event["type"] for event in found] == ["worker-heartbeat"] * 2
    assert {event["hostname"] for event in found} == {worker.node}


def test_a_camera(place, start_worker, tmp_path):
    (tmp_path / "cameras.py").write_text(
        "from framework.events import Polaroid\n"
        "class Camera(Polaroid):\n"
        "    def on_shutter(self, state):\n"
        "        print(self.app.main, [worker.status for worker in state.workers.values()], flush=True)\n"
    )
    start_worker("-P", "solo", broker=place.url, backend=place.url)
    path = f"{tmp_path}:{place.env['PYTHONPATH']}"
    process = run(place, "--camera", "cameras:Camera", "--freq", "0.05", "--limit", "2", PYTHONPATH=path)
    out, err = finish(process)
    assert process.returncode == 0, err
    assert "proj ['ONLINE']" in out.splitlines()


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--dump", "--json"], 2, "exclude each other"),
        ([], 2, "the live screen needs a terminal; use --dump or --json in a pipe"),
        (["--camera", "nowhere:Camera"], 78, "the camera 'nowhere:Camera' cannot be imported"),
        (["--camera", "json:JSONDecoder"], 78, "has no on_shutter"),
        (["--camera", "framework.events:Polaroid", "--maxrate", "often"], 78, "not 'often'"),
        (["--camera", "framework.events:Polaroid", "--freq", "0"], 2, "--freq must be more than 0"),
    ],
)
def test_what_cannot_be_is_said(place, args, code, text):
    process = run(place, *args)
    _, err = finish(process)
    assert process.returncode == code
    assert text in err


def test_a_broker_without_fan_out(place):
    process = run(place, "--dump", TEST_BROKER_URL="filesystem://")
    _, err = finish(process)
    assert process.returncode == 78
    assert "has no fan-out" in err


# ---------------------------------------------------------------- the screen


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("jk", ["j", "k"]),
        ("\x1b[A\x1b[B\x1b[5~", ["up", "down", "page up"]),
        ("\x1bq", ["escape", "q"]),
        ("\x1b[99~x", []),
        ("ä\r\x7f", ["ä", "enter", "backspace"]),
    ],
)
def test_keys(sent, keys):
    assert list(split(sent)) == keys


@pytest.fixture
def screen(place):
    """A model on a broker of its own, and what it looks like; no worker, the events are made here."""
    app = proj.make_app(place.url, place.url)
    with Model(app) as model:
        wait_for(lambda: model.trouble == "", 30)

        def tell(kind, uuid=None, **fields):
            event = {"type": kind, "hostname": "w1@here", "timestamp": 1000.0, **fields}
            model.state.event(event if uuid is None else {**event, "uuid": uuid})

        def look(width=80, height=24):
            console = Console(width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False)
            with console.capture() as capture:
                console.print(draw(model, console), end="")
            return capture.get().split("\n")

        def press(*keys):
            for key in keys:
                model.press(key)

        yield SimpleNamespace(model=model, tell=tell, look=look, press=press)
    app.close()


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (40, 10)])
@pytest.mark.parametrize("keys", [[], ["tab"], ["3"], ["?"], ["i"], ["r"], ["t"], ["c"], ["l"], [" "]])
def test_every_view_fits_every_terminal(screen, size, keys):
    width, height = size
    for number in range(100):
        name = f"proj.task_{number % 3}_" + "x" * (number % 70)
        screen.tell("task-received", f"id-{number}", name=name, args="('[red]', '漢字')", kwargs="{}")
        screen.tell("worker-heartbeat", hostname=f"w{number}@" + "h" * number, freq=2.0, active=1, loadavg=[1, 2, 3])
    screen.tell("task-failed", "id-99", exception="E('" + "y" * 500 + "')", traceback="line\n" * 200)
    screen.press(*keys)
    for _ in range(2):
        lines = screen.look(width, height)
        assert len(lines) <= height
        assert max(len(re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", line)) for line in lines) <= width
        screen.press("page down")


def test_it_says_what_is_missing(screen):
    assert any("No events from any worker" in line for line in screen.look())
    screen.tell("worker-heartbeat", freq=2.0)
    assert any("press e" in line for line in screen.look())
    screen.tell("worker-offline", freq=2.0)
    assert any("No worker is online" in line for line in screen.look())


def test_while_the_broker_is_away_nobody_is_called_dead_or_alive(screen):
    screen.tell("worker-heartbeat", freq=2.0)
    screen.press("2")
    assert any("w1@here" in line and "ONLINE" in line for line in screen.look())
    screen.model.trouble = "cannot be reached"
    assert any("w1@here" in line and "?" in line and "LINE" not in line for line in screen.look())


def test_the_selection_stays_with_its_task(screen):
    for number in range(50):
        screen.tell("task-received", f"id-{number}", name="proj.add")
    screen.look()
    assert screen.model.task().uuid == "id-49"
    screen.press("down", "down")
    assert screen.model.task().uuid == "id-47"
    for number in range(50, 80):
        screen.tell("task-received", f"id-{number}", name="proj.add")
    screen.look()
    assert screen.model.task().uuid == "id-47"
    screen.press("home")
    assert screen.model.task().uuid == "id-79"
    screen.press("end")
    assert screen.model.task().uuid == "id-0"
    screen.press("page up", "g")
    screen.tell("task-received", "new", name="proj.add")
    assert screen.model.task().uuid == "new"


def test_a_page_about_a_task(screen):
    screen.tell("task-received", "id-1", name="proj.add", args="(1, 2)", kwargs="{}")
    screen.tell("task-failed", "id-1", exception="ValueError('no')", traceback="Traceback ...\nValueError: no")
    screen.press("i")
    assert any("args" in line and "(1, 2)" in line for line in screen.look())
    screen.press("t")
    assert any("ValueError: no" in line for line in screen.look())
    screen.press("r")
    assert any("ValueError('no')" in line for line in screen.look())
    screen.press("escape")
    assert screen.model.page is None
    screen.press("q")
    assert screen.model.closed


def test_texts_cannot_command_the_terminal(screen):
    screen.tell("task-received", "id-\x9b2J", name="proj\x1b]0;title\x07", args="(\r,)", kwargs="{}")
    screen.press("i")
    console = Console(width=120, height=30, force_terminal=False)
    with console.capture() as captured:
        console.print(Printable(draw(screen.model, console)))
    assert "proj\\x1b]0;title" in captured.get()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", captured.get())


def test_a_paused_list_does_not_move(screen):
    screen.tell("task-received", "id-1", name="proj.first")
    screen.press(" ")
    screen.tell("task-received", "id-2", name="proj.second")
    lines = screen.look()
    assert any("proj.first" in line for line in lines)
    assert not any("proj.second" in line for line in lines)
    assert any("PAUSED" in line for line in lines)
    screen.press(" ")
    assert any("proj.second" in line for line in screen.look())


def test_without_a_worker_nobody_answers(screen):
    screen.press("e")
    wait_for(lambda: "no worker replied" in screen.model.message[0], 30)
    assert screen.model.message[1]


def test_a_whole_session_on_a_terminal(place, start_worker):
    conf = {"worker_eta_park_after": 7200}
    worker = start_worker("-P", "threads", "-c", "1", broker=place.url, backend=place.url, conf=conf)
    app = proj.make_app(place.url, place.url)
    with on_a_terminal(events(), place.env) as terminal:
        wait_for(lambda: "● connected" in terminal.seen(), 20, terminal.seen)
        terminal.send("2")
        wait_for(lambda: worker.node in terminal.seen() and "ONLINE" in terminal.seen(), 20, terminal.seen)
        terminal.send("1")
        terminal.send("e")
        wait_for(lambda: "task events enabled" in terminal.seen(), 20, terminal.seen)
        revoked = app.tasks["proj.add"].apply_async((20, 22), countdown=3600)
        wait_for(lambda: revoked.id[:8] in terminal.seen(), 20, terminal.seen)
        terminal.send("c")
        wait_for(lambda: f"Revoke proj.add {revoked.id}?" in terminal.seen(), 20, terminal.seen)
        terminal.send("y")
        wait_for(lambda: "flagged as revoked" in terminal.seen(), 20, terminal.seen)
        assert app.control.inspect(worker.node).revoked() == [revoked.id]
        terminal.send("q")
        assert terminal.process.wait(20) == 0
    app.close()
