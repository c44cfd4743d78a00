from __future__ import annotations

import pytest

from framework.api.command import COMMANDS, Command
from framework.exceptions import ConfigError
from framework.worker.control import Panel, control_command, inspect_command
from framework.worker.steps.control.commands import PANEL


def noop(state): ...


@pytest.fixture
def panel():
    def greet(state, name, loud=False):
        return {"ok": f"{state} greets {name}{'!' if loud else ''}"}

    def fails(state):
        raise RuntimeError("boom")

    panel = Panel()
    panel.add(Command(name="greet", handler=greet, alias="hail"))

    def add(state, count: int, by: float = 1.0, names: list[str] | None = None):
        return {"ok": [count, by, names]}

    panel.add(Command(name="fails", handler=fails))
    panel.add(Command(name="add", handler=add, variadic="names"))
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
    assert reply["error"].endswith("the command is greet NAME [LOUD]")


@pytest.mark.parametrize("arguments", [{"count": "x"}, {"count": 1, "by": []}, {"count": 1, "names": "abc"}])
def test_arguments_of_the_wrong_type_are_an_error_reply_that_says_which(panel, arguments):
    name = list(arguments)[-1]
    assert panel.answer("w1", "add", arguments)["error"].startswith(f"add: {name} is {arguments[name]!r}: Expected ")


def test_numbers_that_came_as_words_are_taken(panel):
    assert panel.answer("w1", "add", {"count": "3", "by": 2}) == {"ok": [3, 2.0, None]}


def test_none_stands_for_not_given(panel):
    assert panel.answer("w1", "add", {"count": 1, "by": None}) == {"ok": [1, 1.0, None]}
    assert "error" in panel.answer("w1", "add", {"count": None})


def test_words_become_arguments(panel):
    add = panel.get("add")
    assert add.usage == "add COUNT [BY] [NAMES ...]"
    assert add.parse(["3"]) == {"count": 3}
    assert add.parse(["3", "0.5", "a", "b"]) == {"count": 3, "by": 0.5, "names": ["a", "b"]}
    assert add.parse(["by=2", "3", "a"]) == {"count": 3, "by": 2.0, "names": ["a"]}


def test_the_default_says_what_a_word_is_where_nothing_is_declared():
    def grow(state, n=1, name="x"): ...

    command = Command(name="grow", handler=grow)
    assert command.parse(["3", "4"]) == {"n": 3, "name": "4"}
    with pytest.raises(ValueError, match="N cannot be 'many'"):
        command.parse(["many"])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [([], "COUNT is missing"), (["x"], "COUNT cannot be 'x'"), (["1", "by"], "BY cannot be 'by'")],
)
def test_wrong_words_are_refused_in_a_sentence(panel, words, complaint):
    with pytest.raises(ValueError, match=complaint):
        panel.get("add").parse(words)


def test_a_word_too_many_is_refused(panel):
    with pytest.raises(ValueError, match=r"unexpected argument c; the command is greet NAME .LOUD."):
        panel.get("greet").parse(["a", "true", "c"])


def test_a_command_that_raises_is_an_error_reply(panel):
    assert panel.answer("w1", "fails", {}) == {"error": "RuntimeError('boom')"}


def test_two_commands_of_one_name_are_refused(panel):
    with pytest.raises(ConfigError, match="two remote-control commands have the name 'greet'"):
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


def test_words_of_the_commands_about_pools():
    def parse(name, *words):
        return COMMANDS.get(name).parse(words)

    assert PANEL is COMMANDS
    assert parse("pool_grow", "2") == {"n": 2}
    assert parse("terminate", "KILL", "a", "b") == {"signal": "KILL", "task_id": ["a", "b"]}
    assert parse("time_limit", "proj.add", "1", "2.5") == {"task_name": "proj.add", "soft": 1.0, "hard": 2.5}
    assert parse("revoke", "a", "b", "terminate=true") == {"terminate": True, "task_id": ["a", "b"]}
    assert parse("pool_restart", "a.b", "c", "reload=true") == {"modules": ["a.b", "c"], "reload": True}
