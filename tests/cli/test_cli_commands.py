"""The sub-commands that need no broker: init, config, plugins, worker's options."""

import json
import os
import sys
import tomllib

import click
import pytest

from framework import exitcodes
from framework._boot import preload
from framework._cli import program, worker
from framework._cli.output import split
from framework._cli.session import CommandSession
from framework._config import sources
from framework._config.options import options
from support import workers

# ---------------------------------------------------------------- init


def test_init_writes_a_project_that_is_right(run, tmp_path):
    code, out, _ = run("init")
    assert code == 0
    assert "framework worker" in out
    text = (tmp_path / "framework.toml").read_text()
    assert tomllib.loads(text)["task"]["acks_late"] is True
    compile((tmp_path / "tasks.py").read_text(), "tasks.py", "exec")
    settings = sources.resolve(sources.load(environ={})).settings
    assert (settings.app, settings.task.acks_late, settings.worker.loglevel) == ("tasks", True, "INFO")


def test_what_init_has_commented_out_is_right_too(run, tmp_path):
    run("init")
    lines = (tmp_path / "framework.toml").read_text().splitlines()
    uncommented = [
        line.removeprefix("# ") if line.startswith("# ") and " = " in line and "url" not in line else line
        for line in lines
    ]
    (tmp_path / "framework.toml").write_text("\n".join(uncommented))
    settings = sources.resolve(sources.load(environ={})).settings
    assert settings.worker.concurrency == 4
    assert settings.task.time_limit == 300
    assert settings.result.backend == "redis://localhost:6379/1"


def test_init_overwrites_nothing(run, tmp_path):
    (tmp_path / "tasks.py").write_text("mine")
    code, _, err = run("init")
    assert code == exitcodes.CANT_CREATE
    assert err == "framework: error: tasks.py exists here already; nothing was written\n"
    assert (tmp_path / "tasks.py").read_text() == "mine"
    assert not (tmp_path / "framework.toml").exists()


def test_init_makes_the_directory(run, tmp_path):
    code, out, _ = run("init", "new/proj")
    assert code == 0
    assert "cd new/proj" in out
    assert (tmp_path / "new" / "proj" / "tasks.py").exists()


def test_init_where_nothing_can_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("init", "file/proj")
    assert code == exitcodes.CANT_CREATE
    assert "cannot write into file/proj: Not a directory" in err


# ---------------------------------------------------------------- config


def test_config_show_prints_what_is_set_and_where(run, tmp_path):
    (tmp_path / "framework.toml").write_text("[worker]\npool = 'solo'\n")
    _, out, _ = run("config", "show", "--origin")
    assert "[worker] pool" in out
    assert "framework.toml, line 2" in out
    assert "task_time_limit" not in out


def test_config_show_all_shows_every_setting(run):
    _, out, _ = run("config", "show", "--all", "--json")
    assert json.loads(out).keys() == options().keys()


def test_config_show_json_with_origin(run, tmp_path):
    (tmp_path / "framework.toml").write_text("\n[worker]\npool = 'solo'\n")
    _, out, _ = run("config", "show", "--json", "--origin")
    found = json.loads(out)["worker_pool"]
    assert found == {"value": "solo", "layer": "file", "source": str(tmp_path / "framework.toml"), "line": 3}


def test_config_shows_no_password(run, tmp_path):
    (tmp_path / "framework.toml").write_text(
        "[broker]\nurl = 'redis://:hunter2@h'\npassword = 'hunter2'\n[transport.redis]\npassword = 'hunter2'\n"
    )
    for arguments in (["--all", "--origin"], ["--all", "--json"]):
        _, out, _ = run("config", "show", *arguments)
        assert "hunter2" not in out
        assert "********" in out


def test_config_schema_is_json(run):
    code, out, _ = run("config", "schema")
    assert code == 0
    assert json.loads(out)["title"] == "framework.toml"


def test_config_check_says_what_is_wrong(run, tmp_path):
    (tmp_path / "framework.toml").write_text("[worker]\npol = 'solo'\n")
    code, _, err = run("config", "check")
    assert code == exitcodes.CONFIG
    assert "framework.toml, line 2: unknown setting pol in [worker]; did you mean pool?" in err


# ---------------------------------------------------------------- plugins


def test_plugins_lists_the_built_in_ones(run):
    code, out, _ = run("plugins", "list", "--json")
    assert code == 0
    found = {(plugin["family"], plugin["name"]) for plugin in json.loads(out)}
    assert {("transport", "redis"), ("transport", "sqlite"), ("pool", "solo"), ("result_store", "rpc")} <= found
    assert "framework_transports.redis" in run("plugins")[1]


def test_the_doctor_says_what_is_wrong(run, monkeypatch):
    from framework._boot import catalog, loader
    from framework.exceptions import PluginInvalid, PluginUnavailable

    infos = [catalog.PluginInfo("pool", name, "x:Y", "acme", "1.0") for name in ("good", "lacking", "bad")]
    errors = {"lacking": PluginUnavailable("pip install 'acme[lib]'"), "bad": PluginInvalid("it is no Pool")}

    def load(family, name):
        if name in errors:
            raise errors[name]

    monkeypatch.setattr(catalog, "plugins", lambda: infos)
    monkeypatch.setattr(loader, "load", load)
    code, out, _ = run("plugins", "doctor")
    assert code == exitcodes.CONFIG
    assert "missing: pip install 'acme[lib]'" in out
    assert "broken: it is no Pool" in out
    del errors["bad"]
    code, out, _ = run("plugins", "doctor", "--json")
    assert code == 0
    assert {plugin["name"]: plugin["state"] for plugin in json.loads(out)} == {
        "good": "ok",
        "lacking": "missing",
        "bad": "ok",
    }


# ---------------------------------------------------------------- worker


@pytest.fixture
def flags(monkeypatch, run):
    """Run `framework worker` up to where the pool is chosen, and return the configuration by then."""

    class Stopped(Exception):
        pass

    def flags(*args):
        def stop(_pool, _start_method):
            raise Stopped

        monkeypatch.setattr(preload, "preload", stop)
        sources.install(None)
        code, _, err = run("worker", *args)
        assert "Stopped()" in err, err
        assert code == exitcodes.SOFTWARE
        return sources.resolve(sources.installed())

    return flags


@pytest.mark.parametrize(
    ("args", "name", "value"),
    [
        (["-c", "4"], "worker_concurrency", 4),
        (["--concurrency=auto"], "worker_concurrency", "auto"),
        (["-P", "solo"], "worker_pool", "solo"),
        (["--pool", "gevent"], "worker_pool", "gevent"),
        (["-Q", "a,b"], "worker_queues", ["a", "b"]),
        (["-X", "a"], "worker_exclude_queues", ["a"]),
        (["-n", "w1@%h"], "worker_hostname", "w1@%h"),
        (["-l", "info"], "worker_loglevel", "INFO"),
        (["--loglevel=DEBUG"], "worker_loglevel", "DEBUG"),
        (["-O", "default"], "worker_optimization", "default"),
        (["--prefetch-multiplier", "2"], "worker_prefetch_multiplier", 2),
        (["--time-limit=3"], "task_time_limit", 3.0),
        (["--soft-time-limit=1.5"], "task_soft_time_limit", 1.5),
        (["--max-tasks-per-child", "9"], "worker_max_tasks_per_child", 9),
        (["--maxtasksperchild=9"], "worker_max_tasks_per_child", 9),
        (["--max-memory-per-child=9000"], "worker_max_memory_per_child", 9000),
        (["--pool-start-method=spawn"], "worker_pool_start_method", "spawn"),
        (["--purge"], "worker_purge", True),
        (["--discard"], "worker_purge", True),
        (["-I", "a,b"], "include", ["a", "b"]),
        (["--without-gossip"], "worker_gossip", False),
        (["--without-mingle"], "worker_mingle", False),
        (["--without-heartbeat"], "worker_heartbeat", False),
        (["-f", "%n.log"], "worker_logfile", "%n.log"),
        (["--pidfile", "%n.pid"], "worker_pidfile", "%n.pid"),
        (["worker.prefetch_multiplier=2"], "worker_prefetch_multiplier", 2),
        (["task.acks_late=true"], "task_acks_late", True),
        (["worker_stop_timeout=3"], "worker_stop_timeout", 3.0),
        (["--no-execv"], "worker_pool", "prefork"),
        (["-b", "redis://h"], "broker_url", "redis://h"),
        (["--result-backend", "rpc://"], "result_backend", "rpc://"),
    ],
)
def test_an_option_of_the_worker_is_a_setting(flags, args, name, value):
    assert flags(*args).value(options()[name]) == value


def test_the_spelling_is_the_origin(flags):
    flags("--maxtasksperchild=9", "worker.direct=yes")
    origins = sources.resolve(sources.installed()).origins
    assert str(origins["worker_max_tasks_per_child"]) == "option --maxtasksperchild"
    assert str(origins["worker_direct"]) == "option worker.direct=yes"


def test_the_app_stands_before_or_after_the_command(flags, run):
    assert flags("-A", "proj").settings.app == "proj"
    assert flags("--app=proj").settings.app == "proj"


@pytest.mark.acceptance(3)
def test_the_help_of_the_worker_lists_every_flag(run):
    _, out, _ = run("worker", "--help")
    for option in options().values():
        for flag in option.flag:
            assert flag in out


def test_a_flag_that_turns_off_says_so(run):
    _, out, _ = run("worker", "--help")
    assert "Do not send heartbeat events." in out


UNAVAILABLE = [option.flag[-1] for option in options().values() if option.flag and option.since] + ["--beat"]


@pytest.mark.parametrize("flag", UNAVAILABLE)
def test_what_is_not_there_yet_is_refused_in_words(run, flag):
    flags = {spelling for param in worker.command.params if getattr(param, "is_flag", False) for spelling in param.opts}
    code, _, err = run("worker", flag, *([] if flag in flags else ["1"]))
    assert code == exitcodes.CONFIG
    assert err.startswith(f"framework: error: option {flag}: ")
    assert err.endswith("is not available in this release\n")


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["-c", "many"], 78, "option --concurrency: [worker] concurrency is 'many'; wanted a whole number >= 1"),
        (["--time-limit", "x"], 78, "option --time-limit: [task] time_limit is 'x'; wanted a number > 0"),
        (["-l", "loud"], 78, "option --loglevel: [worker] loglevel is 'loud'; wanted one of"),
        (["foo"], 2, "unexpected argument foo; settings are given as worker.key=value"),
        (["worker.pol=1"], 78, "argument worker.pol=1: unknown setting worker.pol; did you mean worker_pool?"),
        (["-P", "preforkk"], 78, "no pool named 'preforkk' is installed; did you mean 'prefork'?"),
    ],
)
def test_a_wrong_option_of_the_worker(run, args, code, text):
    found, _, err = run("worker", *args)
    assert found == code
    assert text in err


# ---------------------------------------------------------------- small things


def test_tables_are_plain_in_a_pipe(capsys):
    from framework._cli.output import print_table

    print_table(CommandSession(), ("a", "long column"), [("x", 1), ("longer", 22)])
    assert capsys.readouterr().out == "a       long column\nx       1\nlonger  22\n"


def test_tables_on_a_terminal_are_rich(capsys, monkeypatch):
    from framework._cli.output import print_table

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(CommandSession(), ("a", "b"), [("[red]x", 1)])
    out = capsys.readouterr().out
    assert "[red]x" in out
    assert "─" in out


def test_lists_are_split():
    assert split("a, b,,c ") == ["a", "b", "c"]
    assert split(None) == []


def test_every_command_that_answers_has_json():
    for name in ("call", "result", "queues", "purge", "status", "inspect", "control", "graph", "plugins"):
        command = program.program.get_command(click.Context(program.program), name)
        assert any("--json" in param.opts for param in command.params), name
    assert os.environ.get("FRAMEWORK_CONFIG") is None


def test_older_names_are_noted_once(run, tmp_path):
    (tmp_path / "framework.toml").write_text("CELERYD_POOL = 'solo'\n")
    _, _, err = run("config", "show")
    assert err == "framework.toml, line 1: CELERYD_POOL is an older name; write [worker] pool\n"


@pytest.mark.parametrize("option", ["--queue=", f"--queue={'x' * 300}", f"--routing-key={'x' * 300}"])
def test_call_refuses_a_name_in_one_sentence(option, sqlite_url):
    done = workers.run_command(
        "-A", "proj", "call", "proj.noop", option, env=workers.app_environment(broker=sqlite_url)
    )
    assert done.returncode == exitcodes.USAGE
    assert "the name of the" in done.stderr
    assert "Traceback" not in done.stderr
