"""Modules that are imported and reloaded while the worker runs: in order, and all of them or none."""

from __future__ import annotations

import sys

import pytest

from framework import App
from framework.client import current
from framework.exceptions import FrameworkError
from framework.worker.autoreload.reloading import Reloading, in_order


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A directory for modules; what is imported from it is forgotten after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(current, "shared", [])
    before = set(sys.modules)

    def write(**modules):
        for name, text in modules.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def app():
    app = App("modules", broker="memory://")
    yield app
    app.close()


SHARED = "from framework import shared_task\n@shared_task\ndef f():\n    return {}\n"


def bring(app, *names, reload=False, target="no_such:app"):
    Reloading(app, target, ["*"]).load(names, reload)


def test_shared_tasks_are_registered_and_replaced(home, app):
    home(one=SHARED.format(1))
    bring(app, "one")
    assert app.tasks["one.f"]() == 1
    home(one=SHARED.format(2))
    bring(app, "one")
    assert app.tasks["one.f"]() == 1
    bring(app, "one", reload=True)
    assert app.tasks["one.f"]() == 2, "written within the same second, and of the same size"


def test_one_that_fails_takes_the_others_back(home, app):
    home(one=SHARED.format(1), two="VALUE = 1\n")
    bring(app, "one", "two")
    home(one=SHARED.format(2), two="VALUE = 2\nraise ValueError\n")
    with pytest.raises(FrameworkError, match="cannot reload two: ValueError"):
        bring(app, "one", "two", reload=True)
    assert app.tasks["one.f"]() == 1
    assert sys.modules["two"].VALUE == 1
    home(new=SHARED.format(3))
    with pytest.raises(FrameworkError, match="cannot import no_such_module"):
        bring(app, "new", "no_such_module")
    assert "new.f" not in app.tasks
    bring(app, "new")
    assert app.tasks["new.f"]() == 3, "it is executed again, as its tasks were not there"


def test_modules_come_after_those_that_they_import(home, app):
    home(
        **{
            "pack/__init__": "",
            "pack/low": "",
            "pack/middle": "from . import low\n",
            "top": "from pack.middle import low\nimport pack\n",
        }
    )
    names = ["top", "pack.middle", "pack.low"]
    bring(app, *names)
    assert in_order(names) == ["pack.low", "pack.middle", "top"]


def test_modules_that_import_each_other_all_come(home, app):
    home(left="import right\n", right="import left\n")
    bring(app, "right", "left")
    assert sorted(in_order(["right", "left"])) == ["left", "right"]


def test_the_application_that_a_module_makes_anew_gives_its_place_to_the_old_one(home):
    home(shop="from framework import App\napp = App('shop')\n@app.task\ndef f():\n    return 1\n")
    import shop  # made a moment ago

    app = shop.app
    home(shop="from framework import App\napp = App('shop')\n@app.task\ndef f():\n    return 2\n")
    bring(app, "shop", reload=True, target="shop:app")
    assert shop.app is app
    assert app.tasks["shop.f"]() == 2
    assert app.tasks["shop.f"].app is app
    assert current.find_app() is app
