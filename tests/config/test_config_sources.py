"""The layers of the configuration: where a value comes from, which one wins, and what is refused."""

import re

import msgspec
import pytest

from framework._config import sources
from framework._config.conf import Conf
from framework._config.sources import Origin, Sources, Value, load, resolve
from framework.exceptions import ConfigError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def read(here):
    """Write framework.toml, and load it with an environment and flags."""

    def read(text, environ=None, flags=None):
        (here / "framework.toml").write_text(text)
        return load(environ=environ or {}, flags=flags)

    return read


# ---------------------------------------------------------------- layers


def test_each_layer_wins_over_the_one_below(read):
    file = "[worker]\nconcurrency = 3\nmax_tasks_per_child = 3\npool = 'file'\nqueues = ['file']\n"
    found = read(
        file,
        {"FRAMEWORK_WORKER_CONCURRENCY": "4", "FRAMEWORK_WORKER_POOL": "environment"},
        {"worker_pool": ("--pool", "flag")},
    )
    code = {
        name: Value(value, Origin("code", "proj.py:1"))
        for name, value in {"worker_queues": ["code"], "worker_pool": "code", "worker_direct": True}.items()
    }
    config = resolve(found, [code])
    worker = config.settings.worker
    assert (worker.prefetch_multiplier, worker.direct, worker.queues) == ("auto", True, ["file"])
    assert (worker.max_tasks_per_child, worker.concurrency, worker.pool) == (3, 4, "flag")
    layers = {
        name: config.origin(f"worker_{name}").layer
        for name in ("prefetch_multiplier", "direct", "queues", "concurrency", "pool")
    }
    assert layers == {
        "prefetch_multiplier": "default",
        "direct": "code",
        "queues": "file",
        "concurrency": "environment",
        "pool": "flag",
    }


def test_an_origin_says_where(read, here):
    config = resolve(
        read(
            "\n[worker]\n# a comment\n\nconcurrency = 3\n",
            {"FRAMEWORK_WORKER_POOL": "solo"},
            {"task_acks_late": ("--acks", True)},
        )
    )
    assert str(config.origin("worker_concurrency")) == "framework.toml, line 5"
    assert str(config.origin("worker_pool")) == "environment variable FRAMEWORK_WORKER_POOL"
    assert str(config.origin("task_acks_late")) == "option --acks"
    assert str(config.origin("worker_direct")) == "default"
    assert str(config.origin("broker_url")) == "default (the embedded broker)"


@pytest.mark.parametrize(
    ("text", "reading", "writing", "origin"),
    [
        ('url = "redis://a"', "redis://a", "redis://a", "framework.toml, line 2"),
        ('url = "redis://a"\nread_url = "redis://b"', "redis://b", "redis://a", "framework.toml, line 2"),
        ('url = "redis://a"\nwrite_url = "amqp"', "redis://a", "amqp://", "framework.toml, line 2"),
        ('read_url = "redis://b"', "redis://b", "redis://b", "default (from broker.read_url)"),
        ('write_url = "redis://c"', "redis://c", "redis://c", "default (from broker.write_url)"),
        (
            'read_url = "redis://b;redis://d"\nwrite_url = "redis://c"',
            "redis://b;redis://d",
            "redis://c",
            "default (from broker.read_url)",
        ),
    ],
)
def test_two_brokers(read, text, reading, writing, origin):
    config = resolve(read(f"[broker]\n{text}\n"))
    broker = config.settings.broker
    assert (broker.reading, broker.writing, str(config.origin("broker_url"))) == (reading, writing, origin)
    assert config.settings.result.backend is None


def test_plugin_tables_are_merged_key_by_key(read):
    found = read(
        "[transport.redis]\nlease = 20\nother = 1\n",
        {"FRAMEWORK_TRANSPORT": '{"redis": {"lease": 5}, "amqp": {"x": 1}}'},
    )
    assert resolve(found).settings.transport == {"redis": {"lease": 5, "other": 1}, "amqp": {"x": 1}}


def test_sources_survive_the_way_to_another_process(read):
    found = read("[worker]\nconcurrency = 3\n[task.publish_retry_policy]\nmax_retries = 7\n", {"FRAMEWORK_APP": "x"})
    again = msgspec.json.decode(msgspec.json.encode(found), type=Sources)
    assert resolve(again).settings == resolve(found).settings
    assert resolve(again).settings.task.publish_retry_policy.max_retries == 7
    assert resolve(again).origins == resolve(found).origins


# ---------------------------------------------------------------- files


def test_the_file_may_be_pyproject_toml(here):
    (here / "pyproject.toml").write_text("[project]\nname = 'x'\n[tool.framework.worker]\nconcurrency = 3\n")
    config = resolve(load(environ={}))
    assert config.settings.worker.concurrency == 3
    assert str(config.origin("worker_concurrency")) == "pyproject.toml, line 4"


def test_a_foreign_pyproject_toml_is_left_alone(here):
    (here / "pyproject.toml").write_text("this is not even TOML")
    assert load(environ={}).path is None


def test_framework_toml_comes_before_pyproject_toml(here):
    (here / "pyproject.toml").write_text("[tool.framework]\napp = 'one'\n")
    (here / "framework.toml").write_text("app = 'two'\n")
    assert load(environ={}).value("app") == "two"


def test_a_file_may_lie_in_another_directory(here):
    (here / "proj").mkdir()
    (here / "proj" / "framework.toml").write_text("app = 'proj'\n")
    found = load(environ={}, directories=[here, here / "proj"])
    assert found.value("app") == "proj"
    assert found.directory == str(here / "proj")


def test_the_file_may_be_named(here):
    (here / "other.toml").write_text("app = 'x'\n")
    assert load("other.toml", environ={}).value("app") == "x"
    assert load(environ={"FRAMEWORK_CONFIG": "other.toml"}).value("app") == "x"


def test_a_named_file_that_does_not_exist(here):
    with pytest.raises(ConfigError, match=r"the config file nope\.toml does not exist"):
        load("nope.toml", environ={})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("app = 1\n", "framework.toml, line 1: app is 1; wanted a string, or nothing"),
        ("\n[worker]\npol = 'x'\n", "framework.toml, line 3: unknown setting pol in [worker]; did you mean pool?"),
        ("[worker]\nconcurrency = 'x'\n", "framework.toml, line 2: [worker] concurrency is 'x'; wanted a whole number"),
        ("[wroker]\n", "framework.toml, line 1: unknown table [wroker]; did you mean worker?"),
        ("appp = 'x'\n", "framework.toml, line 1: unknown setting appp; did you mean app?"),
        ("worker = 3\n", "framework.toml, line 1: worker is 3; wanted a table, [worker]"),
        ("[task]\nconcurrency = 3\n", "framework.toml, line 2: unknown setting concurrency in [task]; did you mean"),
        ("[task\n", "framework.toml, line 1: not valid TOML: Expected"),
        ("[task]\nx = \n", "framework.toml, line 2: not valid TOML: Invalid value"),
        ("[broker]\nurl_file = 3\n", "framework.toml, line 2: [broker] url_file is 3; wanted the path of a file"),
        ("[broker]\nurl_file = 'nope'\n", "framework.toml, line 2: cannot read nope: No such file or directory"),
        ("[worker]\npool_file = 'x'\n", "unknown setting pool_file in [worker]"),
        ("[nodes.w1]\nqueus = ['a']\n", "framework.toml, line 2: unknown worker setting queus; did you mean queues?"),
        ("[nodes.w1]\nconcurrency = 0\n", "framework.toml, line 2: [worker] concurrency is 0; wanted"),
        ("[task.publish_retry_policy]\nmax_retris = 1\n", "unknown key max_retris; did you mean max_retries?"),
        (
            "[task.publish_retry_policy]\nmax_retries = 'x'\n",
            "max_retries is 'x'; wanted a whole number >= 0, or nothing",
        ),
        ("[transport]\nredis = 1\n", "transport is {'redis': 1}; wanted a table of tables, as in [transport.name]"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_guess(read, text, problem):
    with pytest.raises(ConfigError, match=re.escape(problem)):
        read(text)


def test_a_file_that_is_not_text(here):
    (here / "framework.toml").write_bytes(b"app = '\xff'")
    with pytest.raises(ConfigError, match=r"framework\.toml is not UTF-8 text"):
        load(environ={})


def test_a_secret_may_lie_in_a_file_of_its_own(read, here):
    (here / "secret").write_text("redis://:pw@h/0\n")
    assert resolve(read("[broker]\nurl_file = 'secret'\n")).settings.broker.url == "redis://:pw@h/0"
    found = read("", {"FRAMEWORK_BROKER_URL_FILE": str(here / "secret")})
    assert resolve(found).settings.broker.url == "redis://:pw@h/0"


def test_older_names_in_the_file_are_taken_with_a_note(read):
    found = read("CELERYD_CONCURRENCY = 3\nworker_pool = 'solo'\nCELERY_TASK_ACKS_LATE = true\n")
    settings = resolve(found).settings
    assert (settings.worker.concurrency, settings.worker.pool, settings.task.acks_late) == (3, "solo", True)
    assert found.notes == [
        "framework.toml, line 1: CELERYD_CONCURRENCY is an older name; write [worker] concurrency",
        "framework.toml, line 2: write [worker] pool for worker_pool",
        "framework.toml, line 3: CELERY_TASK_ACKS_LATE is an older name; write [task] acks_late",
    ]


def test_lines_are_found_in_any_way_to_write_toml(read):
    text = '''
about = """
[worker]
pool = 1
"""
'''
    with pytest.raises(ConfigError, match="line 2: unknown setting about"):
        read(text)
    with pytest.raises(ConfigError, match=r"line 3: .*concurrency"):
        read("# [worker]\napp = 'x'\nworker.concurrency = 'x'\n")
    with pytest.raises(ConfigError, match=r"line 2: .*concurrency"):
        read("\nworker = { pool = 'x', concurrency = 'x' }\n")
    with pytest.raises(ConfigError, match=r"line 2: .*concurrency"):
        read("['worker']\n\"concurrency\" = 'x'\n")


# ---------------------------------------------------------------- environment


def test_older_variables_are_taken_with_a_note(here):
    found = load(environ={"CELERY_BROKER_URL": "redis://h", "CELERY_RESULT_BACKEND": "rpc://", "CELERY_APP": "proj"})
    settings = resolve(found).settings
    assert (settings.broker.url, settings.result.backend, settings.app) == ("redis://h", "rpc://", "proj")
    assert "environment variable CELERY_BROKER_URL is an older name; write FRAMEWORK_BROKER_URL" in found.notes
    assert len(found.notes) == 3


def test_the_own_variable_wins_over_the_older_one(here):
    found = load(environ={"CELERY_BROKER_URL": "redis://old", "FRAMEWORK_BROKER_URL": "redis://new"})
    assert resolve(found).settings.broker.url == "redis://new"


def test_the_guides_variable_for_the_watcher(here):
    assert resolve(load(environ={"CELERYD_FSNOTIFY": "stat"})).settings.worker.fsnotify == "stat"
    assert resolve(load(environ={"FRAMEWORK_FSNOTIFY": "kqueue"})).settings.worker.fsnotify == "kqueue"


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        (
            "FRAMEWORK_WORKER_CONCURENCY",
            "3",
            "environment variable FRAMEWORK_WORKER_CONCURENCY: unknown setting; "
            "did you mean FRAMEWORK_WORKER_CONCURRENCY?",
        ),
        (
            "FRAMEWORK_WORKER_CONCURRENCY",
            "x",
            "environment variable FRAMEWORK_WORKER_CONCURRENCY: [worker] concurrency is 'x'",
        ),
        ("FRAMEWORK_BROKER_URL_FILE", "/nope", "environment variable FRAMEWORK_BROKER_URL_FILE: cannot read /nope"),
    ],
)
def test_a_wrong_variable(here, variable, text, problem):
    with pytest.raises(ConfigError, match=re.escape(problem)):
        load(environ={variable: text})


def test_variables_of_others_are_left_alone(here):
    links = {
        "FRAMEWORK_BROKER_PORT": "tcp://10.0.0.1:6379",
        "FRAMEWORK_BROKER_PORT_6379_TCP": "tcp://10.0.0.1:6379",
        "FRAMEWORK_BROKER_PORT_6379_TCP_ADDR": "10.0.0.1",
        "FRAMEWORK_WORKER_SERVICE_HOST": "10.0.0.1",
        "FRAMEWORK_WORKER_SERVICE_PORT_HTTP": "80",
        "FRAMEWORK_UNRELATED": "1",
        "FRAMEWORK_WORKER_POOL": "",
    }
    assert load(environ=links).environment == {}


def test_the_port_may_still_be_given(here):
    assert resolve(load(environ={"FRAMEWORK_BROKER_PORT": "6379"})).settings.broker.port == 6379


# ---------------------------------------------------------------- what depends on others


@pytest.mark.parametrize(
    ("text", "broker", "backend"),
    [
        ("[broker]\nurl = 'redis://h/0'\n", "redis://h/0", None),
        ("[broker]\nurl = 'sqlite:///x.db'\n", "sqlite:///x.db", "sqlite:///x.db"),
        ("[broker]\nurl = 'redis'\n", "redis://", None),
        ("[broker]\nurl = ['redis://a', 'redis://b']\n", "redis://a;redis://b", None),
        ("[broker]\nhost = 'h'\nusername = 'u'\npassword = 'p'\nvhost = 'v'\nport = 1\n", "amqp://u:p@h:1/v", None),
        ("[broker]\nhost = 'h'\ntransport = 'redis'\n", "redis://h/", None),
        ("[broker]\nurl = 'redis://h'\n[result]\nbackend = 'rpc'\n", "redis://h", "rpc://"),
        ("[broker]\nurl = 'redis://h'\n[result]\nbackend = 'redis'\n", "redis://h", "redis://h"),
        (
            "[broker]\nurl = 'redis://h'\n[result]\nbackend = 'redis'\n[redis]\nhost = 'r'\npassword = 'p'\ndb = 3\n",
            "redis://h",
            "redis://:p@r:6379/3",
        ),
        ("[broker]\nurl = 'sqlite:///x.db'\n[result]\nbackend = 'none://'\n", "sqlite:///x.db", None),
    ],
)
def test_broker_and_backend(read, text, broker, backend):
    settings = resolve(read(text)).settings
    assert (settings.broker.url, settings.result.backend) == (broker, backend)


def test_without_a_broker_there_is_a_file_beside_the_config_file(read, here):
    settings = resolve(read("")).settings
    assert settings.broker.url == f"sqlite:///{here}/framework.db"
    assert settings.result.backend == settings.broker.url


# ---------------------------------------------------------------- the process's sources


def test_installed_sources_are_those_of_every_application(read):
    conf = Conf()
    conf.worker_concurrency = 1
    assert conf.settings.worker.concurrency == 1
    try:
        sources.install(read("[worker]\nconcurrency = 3\n"))
        assert conf.settings.worker.concurrency == 3
    finally:
        sources.install(None)
