from __future__ import annotations

import pytest

from framework.exceptions import ConfigError
from framework.worker.control import Panel, control_command, inspect_command
from framework.worker.panel import COMMANDS, Command


def noop(state): ...


@pytest.fixture
def panel():
    def greet(state, name, loud=False):
        return {"ok": f"{state} greets {name}{'!' if loud else ''}"}

    def fails(state):
        raise RuntimeError("boom")

    panel = Panel()
    panel.add(Command(name="greet", handler=greet, alias="hail"))
    panel.add(Command(name="fails", handler=fails))
    return panel


def test_arguments_become_keywords(panel):
    assert panel.answer("w1", "greet", {"name": "bob", "loud": True}) == {"ok": "w1 greets bob!"}


def test_an_alias_works(panel):
    assert panel.answer("w1", "hail", {"name": "bob"}) == {"ok": "w1 greets bob"}


def test_an_unknown_command_is_an_error_reply(panel):
    assert panel.answer("w1", "nope", {})["error"].startswith("KeyError('nope')")


@pytest.mark.parametrize("arguments", [{}, {"name": "bob", "nonsense": 1}])
def test_wrong_arguments_are_an_error_reply_that_says_what_is_taken(panel, arguments):
    reply = panel.answer("w1", "greet", arguments)
    assert reply["error"].startswith("TypeError(")
    assert "name" in reply["error"]


def test_a_command_that_raises_is_an_error_reply(panel):
    assert panel.answer("w1", "fails", {}) == {"error": "RuntimeError('boom')"}


def test_two_commands_of_one_name_are_refused(panel):
    with pytest.raises(ConfigError, match="two remote-control commands are called 'greet'"):
        panel.add(Command(name="greet", handler=noop))


@pytest.mark.acceptance(221, 223)
def test_the_decorators_of_the_guide(monkeypatch):
    monkeypatch.setattr(COMMANDS, "_commands", {})

    @Panel.register
    def increase(state, n=1):
        """Increase it.

        More text.
        """
        return {"ok": n}

    @control_command(args=[("n", int)], signature="[N=1]")
    def change(state, n=1): ...

    @inspect_command(visible=False)
    def look(state): ...

    assert [(each.name, each.kind, each.visible) for each in COMMANDS] == [
        ("change", "control", True),
        ("increase", "control", True),
        ("look", "inspect", False),
    ]
    assert COMMANDS.get("increase").help == "Increase it."
    assert increase(None, 3) == {"ok": 3}
