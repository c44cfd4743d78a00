"""Restarts of the pool by remote control (acceptance N 177-186), on every pool.

One worker a pool, whose application is written by the tests and changed while it runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from uuid import uuid4

import psutil
import pytest

from support import ledger
from support.steering import NODE, POOLS, Steered, steering
from support.wait import wait_for

OK = {"ok": "reload started"}
SHOP = """
import os
from framework import App
app = App("shop", broker=os.environ["TEST_BROKER_URL"], backend=os.environ["TEST_RESULT_URL"], include=["jobs"])
app.conf.update(
    worker_pool_restarts=True,
    worker_pool_restart_modules=["shop", "jobs", "base", "more_*", "broken", "reloading"],
)
@app.task
def version():
    return 1
"""
BASE = "VALUE = 1\n"
JOBS = """
import asyncio, os, time
from base import VALUE
from shop import app
from support.ledger import append
@app.task
def value():
    return VALUE
@app.task
def hold(gate, entry):
    append(os.environ["TEST_LEDGER"], f"start:{entry}")
    while not os.path.exists(gate):
        time.sleep(0.01)
    return VALUE
@app.task
async def ahold(gate, entry):
    append(os.environ["TEST_LEDGER"], f"start:{entry}")
    while not os.path.exists(gate):
        await asyncio.sleep(0.01)
    return VALUE
"""
RELOADING = """
import importlib, os
from support.ledger import append
def reload(module):
    append(os.environ["TEST_LEDGER"], f"reloaded:{module.__name__}")
    return importlib.reload(module)
broken = 5
"""


@pytest.fixture(scope="module", params=POOLS)
def shop(request, tmp_path_factory) -> Iterator[Steered]:
    home = tmp_path_factory.mktemp("shop")
    for name, text in (("shop", SHOP), ("base", BASE), ("jobs", JOBS), ("reloading", RELOADING)):
        (home / f"{name}.py").write_text(text)
    with steering(request, "redis", home, request.param, app="shop", app_dir=home) as made:
        yield made


def run(shop: Steered, task: str, *args: object) -> object:
    return shop.ours.send_task(task, args).get(timeout=20)


def write(shop: Steered, module: str, text: str) -> None:
    """Write a module; of the same size and within the same second as before, as an editor may."""
    path = shop.directory / f"{module}.py"
    stat = path.stat() if path.exists() else None
    path.write_text(text)
    if stat is not None:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def becomes(shop: Steered, task: str, expected: object) -> None:
    """Wait until the restarted pool runs `task` to `expected`: children are replaced one by one."""
    wait_for(lambda: [run(shop, task) for _ in range(4)] == [expected] * 4, 20, f"{task} to return {expected}")


@pytest.mark.acceptance(177)
def test_a_module_that_is_named_is_imported(shop):
    write(shop, "more_one", "from shop import app\n@app.task\ndef extra():\n    return 'one'\n")
    assert shop.tell("pool_restart", ["more_one"]) == OK
    assert "more_one.extra" in shop.ask("registered")
    assert run(shop, "more_one.extra") == "one"


@pytest.mark.acceptance(178, 179, 181)
def test_it_is_executed_anew_only_when_that_is_asked_for(shop):
    write(shop, "more_two", "from shop import app\n@app.task\ndef extra():\n    return 1\n")
    assert shop.tell("pool_restart", ["more_two"]) == OK
    becomes(shop, "more_two.extra", 1)
    write(shop, "more_two", "from shop import app\n@app.task\ndef extra():\n    return 2\n")
    assert shop.tell("pool_restart", ["more_two"]) == OK
    becomes(shop, "more_two.extra", 1)
    assert shop.tell("pool_restart", ["more_two"], reload=True) == OK
    becomes(shop, "more_two.extra", 2)


@pytest.mark.acceptance(180)
def test_without_names_all_modules_with_tasks_are(shop):
    """The application's own among them: its tasks stay those of the worker's application."""
    write(shop, "jobs", JOBS.replace("return VALUE", "return VALUE + 100", 1))
    write(shop, "shop", SHOP.replace("return 1", "return 2"))
    assert shop.tell("pool_restart", reload=True) == OK
    becomes(shop, "jobs.value", 101)
    becomes(shop, "shop.version", 2)
    write(shop, "jobs", JOBS)
    assert shop.tell("pool_restart", reload=True) == OK
    becomes(shop, "jobs.value", 1)


def test_modules_are_executed_after_those_that_they_import(shop):
    write(shop, "base", "VALUE = 7\n")
    assert shop.tell("pool_restart", ["jobs", "base"], reload=True) == OK
    becomes(shop, "jobs.value", 7)
    write(shop, "base", BASE)
    assert shop.tell("pool_restart", ["jobs", "base"], reload=True) == OK
    becomes(shop, "jobs.value", 1)


@pytest.mark.acceptance(182, 185)
def test_what_runs_goes_on_to_its_end_and_the_next_has_a_new_slot(shop):
    before = set(shop.info()["processes"])
    gate, entry = shop.directory / uuid4().hex, uuid4().hex
    name = "jobs.ahold" if shop.pool == "asyncio" else "jobs.hold"
    running = shop.ours.send_task(name, (str(gate), entry))
    shop.wrote(f"start:{entry}")
    assert shop.tell("pool_restart") == OK
    assert not running.ready()
    if shop.slots > 1:
        assert run(shop, "jobs.value") == 1, "the pool goes on while it is restarted"
    gate.touch()
    assert running.get(timeout=20) == 1
    if shop.pool == "prefork":
        wait_for(lambda: not before & set(shop.info()["processes"]), 20, "every child to be replaced")
        assert not any(psutil.pid_exists(pid) for pid in before)


@pytest.mark.acceptance(183)
def test_a_reloader_of_ones_own(shop):
    before = ledger.read(shop.book)["reloaded:base"]
    assert shop.tell("pool_restart", ["base"], reload=True, reloader="reloading.reload") == OK
    assert ledger.read(shop.book)["reloaded:base"] == before + 1
    for path, complaint in (
        ("reloading.nothing", "is no function"),
        ("reloading.broken", "is no function"),
        ("os.system", "may not be imported"),
        ("reload", "is no module name"),
    ):
        assert complaint in shop.tell("pool_restart", ["base"], reload=True, reloader=path)["error"]


@pytest.mark.acceptance(186)
@pytest.mark.parametrize(
    "text", ["raise ValueError('as written')", "def f(:", "import no_such_module", "raise SystemExit(3)"]
)
def test_a_module_that_fails_is_an_error_and_nothing_has_changed(shop, text):
    tasks = shop.ask("registered")
    write(shop, "broken", text + "\n")
    write(shop, "jobs", JOBS.replace("return VALUE", "return VALUE + 100", 1))
    reply = shop.tell("pool_restart", ["jobs", "broken"], reload=True)
    write(shop, "jobs", JOBS)
    assert "cannot import broken" in reply["error"]
    assert shop.ask("registered") == tasks
    becomes(shop, "jobs.value", 1)
    # Nor is one that worked, and does no longer.
    write(shop, "more_three", "VALUE = 1\n")
    assert shop.tell("pool_restart", ["more_three"]) == OK
    write(shop, "more_three", text + "\n")
    assert "cannot reload more_three" in shop.tell("pool_restart", ["more_three"], reload=True)["error"]
    write(shop, "more_three", "VALUE = 1\n")
    assert shop.tell("pool_restart", ["more_three"], reload=True) == OK


@pytest.mark.parametrize("name", ["colorsys", "os.path", "no spaces", "../jobs", ""])
def test_modules_that_the_settings_do_not_let_in_are_refused(shop, name):
    reply = shop.tell("pool_restart", [name])
    assert "may not be imported" in reply["error"] or "is no module name" in reply["error"]


@pytest.mark.acceptance(184)
def test_wrong_arguments_are_errors(shop):
    for arguments in ({"modules": 5}, {"reload": "perhaps"}, {"reloader": ["a"]}):
        options = {"destination": [NODE], "reply": True, "timeout": 20, "limit": 1}
        [reply] = shop.client.control.broadcast("pool_restart", arguments=arguments, **options)
        assert "Expected" in reply[NODE]["error"]
