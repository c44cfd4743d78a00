from __future__ import annotations

import sys

import pytest

from framework import App
from framework.exceptions import FrameworkError
from framework.worker.ending import signal_named
from framework.worker.reloading import Reloading, in_order


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in which each module imports the one before, in three ways, and the first imports the last."""
    root = tmp_path / "reloaded"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "base.py").write_text("def later():\n    from . import top\n    return top\n")
    (root / "middle.py").write_text("from . import base\n")
    (root / "upper.py").write_text("import reloaded.middle\n")
    (root / "top.py").write_text("from .upper import reloaded\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == "reloaded"]:
        del sys.modules[name]


def reloading(*allowed):
    return Reloading(App("reloads", set_as_current=False), "nowhere:app", allowed)


NAMES = ["reloaded.top", "reloaded.upper", "reloaded.middle", "reloaded.base"]


def test_what_others_import_comes_first(package):
    reloading("*").bring(NAMES, reload=False)
    for names in (NAMES, NAMES[::-1]):
        ordered = in_order(names)
        # Around a circle somebody has to begin; no module comes twice, and none is left out.
        assert sorted(ordered) == sorted(NAMES)
    straight = NAMES[1:]
    assert in_order(straight) == straight[::-1]
    assert in_order(straight[::-1]) == straight[::-1]


def test_only_what_is_allowed(package):
    some = reloading("reloaded.b*", "reloaded.middle")
    some.bring(["reloaded.base", "reloaded.middle"], reload=True)
    for name in ("reloaded.top", "os"):
        with pytest.raises(FrameworkError, match=r"pool_restart_modules under \[worker\] allows reloaded\.b\*"):
            some.bring([name], reload=False)
    assert "reloaded.top" not in sys.modules
    with pytest.raises(FrameworkError, match="may not be imported"):
        some.bring(["reloaded.base"], reload=True, reloader="os.system")
    with pytest.raises(FrameworkError, match="is no name of a module"):
        reloading("*").bring(["../etc/passwd"], reload=False)


def test_what_fails_is_told_with_its_place(package):
    (package / "base.py").write_text("\nraise SystemExit(3)\n")
    with pytest.raises(FrameworkError, match=r"cannot import reloaded.base: SystemExit\(3\) \(.*base.py, line 2\)"):
        reloading("*").bring(["reloaded.base"], reload=False)


@pytest.mark.parametrize(("name", "remapped", "number"), [(None, "", 15), (None, "SIGQUIT", 3), ("KILL", "", 9),
    ("SIGKILL", "SIGQUIT", 9), (10, "", 10)])  # fmt: skip
def test_signals(monkeypatch, name, remapped, number):
    monkeypatch.setenv("REMAP_SIGTERM", remapped)
    assert signal_named(name) == number


@pytest.mark.parametrize("name", ["kill", "SIGNOTHING", "SIG_IGN", "", 0, 99])
def test_no_signals(name):
    with pytest.raises(FrameworkError, match="signal"):
        signal_named(name)
