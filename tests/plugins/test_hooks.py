from __future__ import annotations

import pytest

from framework._boot.hooks import Hooks
from framework.api.hook import hookimpl
from framework.exceptions import ConfigError, PluginInvalid


def test_a_hook_that_nobody_implements_is_none():
    assert Hooks().bind("task_prerun") is None


def test_every_listener_hears_and_one_that_fails_silences_nobody(caplog):
    heard = []

    class First:
        @hookimpl
        def task_received(self, task_id, name):
            heard.append((task_id, name))

    class Bad:
        @hookimpl
        def task_received(self):
            raise RuntimeError("boom")

    class Last:
        @hookimpl
        def task_received(self, name):
            heard.append(name)

    hooks = Hooks()
    for listener in (First(), Bad(), Last()):
        hooks.register(listener, type(listener).__name__)
    hooks.bind("task_received")(task_id="1", name="add")
    assert heard == ["add", ("1", "add")]  # as pluggy has it: who came last is asked first
    assert "The hook task_received of Bad failed" in caplog.text


def test_a_listener_may_stop_the_start_with_an_error_for_the_user():
    class Strict:
        @hookimpl
        def worker_init(self):
            raise ConfigError("not on this machine")

    hooks = Hooks()
    hooks.register(Strict())
    with pytest.raises(ConfigError, match="not on this machine"):
        hooks.bind("worker_init")(app=None, hostname="w")


def test_a_wrong_argument_is_refused_at_registration():
    class Wrong:
        @hookimpl
        def task_received(self, nonsense): ...

    with pytest.raises(PluginInvalid, match="nonsense"):
        Hooks().register(Wrong(), "wrong")


def test_a_hook_that_does_not_exist_is_refused():
    class Wrong:
        @hookimpl
        def task_recieved(self): ...

    with pytest.raises(PluginInvalid, match="task_recieved"):
        Hooks().register(Wrong(), "wrong")


def test_installed_hooks_are_loaded_once(site):
    site.distribution(
        "acme",
        {"framework.hooks": {"acme": "acme_hooks"}},
        {
            "acme_hooks": """
            from framework.api.hook import hookimpl
            calls = []
            @hookimpl
            def task_received(name):
                calls.append(name)
            """
        },
    )
    hooks = Hooks()
    hooks.load_installed()
    hooks.load_installed()
    hooks.bind("task_received")(task_id="1", name="add")
    import acme_hooks

    assert acme_hooks.calls == ["add"]
