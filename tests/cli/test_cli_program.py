"""The command line as a whole: global options, misspellings, errors, and what is imported when."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import click
import pytest

from framework import exitcodes
from framework._cli import program
from framework._cli.session import CommandSession
from framework._config import sources
from framework.exceptions import ConnectionLost

# ---------------------------------------------------------------- what is imported


def modules_after(*args):
    """Return the modules that `framework <args>` has imported when it ends, and what it printed."""
    code = (
        "import sys\n"
        "from framework._cli import main\n"
        f"sys.argv = ['framework', *{list(args)!r}]\n"
        "try:\n    main()\n"
        "except SystemExit:\n    print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    return set(done.stderr.split()), done.stdout


def test_help_imports_no_sub_command():
    modules, _ = modules_after("--help")
    commands = {module for module, _, _ in program.COMMANDS.values()}
    assert not modules & commands
    assert not modules & {"kombu", "redis", "rich", "stevedore", "msgspec", "framework._config", "framework.worker"}


def test_completion_imports_no_sub_command(monkeypatch):
    monkeypatch.setenv("_FRAMEWORK_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "framework w")
    monkeypatch.setenv("COMP_CWORD", "1")
    modules, out = modules_after()
    assert out == "plain,worker\n"
    assert not modules & {module for module, _, _ in program.COMMANDS.values()}


def test_a_sub_command_imports_no_other():
    modules, _ = modules_after("init", "--help")
    assert "framework._cli.init" in modules
    assert "framework._cli.worker" not in modules


@pytest.mark.parametrize("name", program.COMMANDS)
def test_every_sub_command_explains_itself(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"Usage: framework {name}" in out
    assert "--app" in out


def test_help_lists_every_sub_command(run):
    code, out, _ = run("--help")
    assert code == 0
    for name, (_, _, text) in program.COMMANDS.items():
        assert name in out
        assert text in out


def test_the_module_is_a_program_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "framework", "--version"], capture_output=True, text=True, timeout=30, cwd=tmp_path
    )
    assert done.returncode == 0
    assert done.stdout.startswith("framework ")


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["wroker"], 2, "there is no command wroker; did you mean worker? (see framework --help)"),
        (["zzz"], 2, "there is no command zzz (there are init, worker, "),
        (["plugins", "dcotor"], 2, "there is no command dcotor; did you mean doctor?"),
        (["worker", "--poool=x"], 2, "no such option"),
        (["worker", "-Q"], 2, "requires an argument"),
        (["--config", "nope.toml", "config", "show"], 78, "the config file nope.toml does not exist"),
        (["--workdir", "nope", "config", "show"], 78, "cannot change to the directory nope: No such file"),
        (["config", "show", "-A", "nope"], 78, "there is no module nope in "),
        (["call"], 2, "missing argument 'NAME'"),
    ],
)
def test_a_mistake_is_one_sentence(run, args, code, text):
    found, out, err = run(*args)
    assert found == code
    assert out == ""
    assert err.startswith("framework: error: ")
    assert text in err
    assert err.count("\n") == 1


def test_no_command_shows_the_help(run):
    code, _, err = run()
    assert code == exitcodes.USAGE
    assert "Usage: framework" in err


@pytest.fixture
def fail(monkeypatch):
    """Make `framework init` raise."""

    def fail(error):
        def raising(*_args, **_kwargs):
            raise error

        monkeypatch.setitem(program.COMMANDS, "init", (__name__, "failing", ""))
        monkeypatch.setattr(sys.modules[__name__], "failing", click.Command("init", callback=raising), raising=False)
        monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])

    return fail


def test_an_error_of_ours_has_its_exit_code_and_no_traceback(run, fail):
    fail(ConnectionLost("the broker redis://h does not answer"))
    code, _, err = run("init")
    assert code == exitcodes.UNREACHABLE
    assert err == "framework: error: the broker redis://h does not answer\n"


def test_the_traceback_is_shown_on_request(run, fail):
    fail(ConnectionLost("gone"))
    code, _, err = run("init", "--traceback")
    assert code == exitcodes.UNREACHABLE
    assert "Traceback (most recent call last)" in err


def test_a_defect_is_shown_whole(run, fail):
    fail(ZeroDivisionError("oops"))
    code, _, err = run("init")
    assert code == exitcodes.SOFTWARE
    assert "Traceback" in err
    assert "a defect of framework or a plugin: ZeroDivisionError('oops')" in err


def test_interrupted(run, fail):
    fail(KeyboardInterrupt())
    code, _, err = run("init")
    assert code == exitcodes.INTERRUPTED
    assert "Traceback" not in err


def test_a_reader_that_goes_is_no_error(tmp_path):
    """`framework config schema | head -1` must not complain."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "framework", "config", "schema"],
            stdout=stream,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            cwd=tmp_path,
        )
    assert done.stderr == ""


# ---------------------------------------------------------------- global options


@pytest.mark.parametrize(
    "args",
    [
        ["-b", "redis://:pw@h/1", "config", "show", "--json"],
        ["config", "-b", "redis://:pw@h/1", "show", "--json"],
        ["config", "show", "--json", "--broker=redis://:pw@h/1"],
    ],
)
def test_global_options_stand_anywhere(run, args):
    code, out, _ = run(*args)
    assert code == 0
    assert json.loads(out)["broker_url"] == "redis://:********@h/1"


def test_the_last_place_wins(run):
    _, out, _ = run("-b", "redis://one", "config", "show", "--json", "-b", "redis://two")
    assert json.loads(out)["broker_url"] == "redis://two"


def test_one_broker_named_there_is_for_everything(run, monkeypatch):
    monkeypatch.setenv("FRAMEWORK_BROKER_READ_URL", "redis://read")
    monkeypatch.setenv("FRAMEWORK_BROKER_WRITE_URL", "redis://write")
    shown = json.loads(run("config", "show", "--json")[1])
    assert (shown["broker_read_url"], shown["broker_write_url"]) == ("redis://read", "redis://write")
    shown = json.loads(run("-b", "redis://one", "config", "show", "--json")[1])
    assert (shown["broker_url"], shown["broker_read_url"], shown["broker_write_url"]) == ("redis://one", None, None)


@pytest.mark.parametrize("key", ["read_url", "write_url"])
def test_a_wrong_url_of_two_is_called_by_its_name(run, monkeypatch, key):
    monkeypatch.setenv("FRAMEWORK_BROKER_URL", "memory://")
    monkeypatch.setenv(f"FRAMEWORK_BROKER_{key.upper()}", "redsi://:hunter2@h")
    code, _, err = run("config", "check")
    assert code == 78
    assert f"broker_{key}: no transport named 'redsi' is installed" in err
    assert "hunter2" not in err


def test_the_working_directory(run, tmp_path):
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj" / "framework.toml").write_text("[worker]\npool = 'solo'\n")
    _, out, _ = run("--workdir", "proj", "config", "show", "--json")
    assert json.loads(out)["worker_pool"] == "solo"


def test_a_sessions_sources_are_read_once(run, tmp_path):
    session = CommandSession()
    assert session.sources() is session.sources()
    assert sources.installed() is session.sources()


# ---------------------------------------------------------------- commands of others


def test_a_strangers_command_is_listed_and_run(run, monkeypatch):
    from importlib.metadata import EntryPoint

    from framework._boot import loader

    point = EntryPoint("greet", "acme:command", program.GROUP)
    monkeypatch.setattr(program, "_installed", lambda: [point])
    monkeypatch.setattr(
        loader, "load", lambda family, name: click.Command(name, callback=lambda: click.echo(f"{family} {name}"))
    )
    assert "greet" in run("--help")[1]
    assert run("greet", "-q")[:2] == (0, "command greet\n")


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('"""Greet people.\n\nMore of it."""\nraise RuntimeError("imported")\n', "Greet people."),
        ("raise RuntimeError('imported')\n", "From acme 1.0."),
        ("no python at all", "From acme 1.0."),
        (None, "From acme 1.0."),
    ],
)
def test_a_strangers_line_of_help_is_read_and_not_imported(source, line, run, monkeypatch, tmp_path):
    from importlib.metadata import EntryPoint

    if source is not None:
        (tmp_path / "acmecli").mkdir()
        (tmp_path / "acmecli" / "__init__.py").write_text("raise RuntimeError('imported')")
        (tmp_path / "acmecli" / "greeting.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("greet", "acmecli.greeting:command", program.GROUP)
    vars(point)["dist"] = SimpleNamespace(name="acme", version="1.0")
    monkeypatch.setattr(program, "_installed", lambda: [point])
    code, out, _ = run("--help")
    assert code == 0
    assert re.search(rf"greet +{re.escape(line)}$", out, re.MULTILINE), out


@pytest.mark.parametrize("args", [("plugins", "doctor"), ("--help",)])
def test_a_reader_that_leaves_early_is_no_failure(args, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "framework", *args]
    try:
        ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60, check=False)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (exitcodes.OK, b"")
