"""The catalogue of options: old names, flags, schema, and values from text and code."""

import re
import typing
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from framework._config.options import accept, aliases, options, parse, tables
from framework._config.settings import Settings
from framework._config.show import json_schema
from framework.exceptions import ConfigError
from framework.server_url import mask

#: A sample of every kind of older name; the first column is what old configurations say.
OLD_NAMES = {
    "CELERYD_CONCURRENCY": "worker_concurrency",
    "CELERYD_POOL": "worker_pool",
    "CELERYD_POOL_RESTARTS": "worker_pool_restarts",
    "CELERYD_PREFETCH_MULTIPLIER": "worker_prefetch_multiplier",
    "CELERYD_MAX_TASKS_PER_CHILD": "worker_max_tasks_per_child",
    "CELERYD_AUTOSCALER": "worker_autoscaler",
    "CELERY_DISABLE_RATE_LIMITS": "worker_disable_rate_limits",
    "CELERY_SEND_EVENTS": "worker_send_task_events",
    "CELERY_WORKER_DIRECT": "worker_direct",
    "CELERYD_TASK_TIME_LIMIT": "task_time_limit",
    "CELERYD_TASK_SOFT_TIME_LIMIT": "task_soft_time_limit",
    "CELERY_QUEUES": "task_queues",
    "CELERY_CREATE_MISSING_QUEUES": "task_create_missing_queues",
    "CELERY_ACKS_LATE": "task_acks_late",
    "CELERY_ALWAYS_EAGER": "task_always_eager",
    "CELERY_MESSAGE_COMPRESSION": "task_compression",
    "CELERY_IMPORTS": "imports",
    "CELERY_INCLUDE": "include",
    "CELERY_ACCEPT_CONTENT": "accept_content",
    "CELERY_RESULT_BACKEND": "result_backend",
    "CELERY_TASK_RESULT_EXPIRES": "result_expires",
    "CELERY_MAX_CACHED_RESULTS": "result_cache_max",
    "CELERY_REDIS_HOST": "redis_host",
    "BROKER_URL": "broker_url",
    "BROKER_HEARTBEAT": "broker_heartbeat",
    "CELERY_EVENT_QUEUE_TTL": "event_queue_ttl",
    "CELERYBEAT_SCHEDULE_FILENAME": "beat_schedule_filename",
}


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_an_old_name_means_the_new_one(old, new):
    assert aliases()[old] == new


@pytest.mark.parametrize("name", options())
def test_every_option_has_a_namespaced_name(name):
    assert aliases()[f"CELERY_{name.upper()}"] in (name, *OLD_NAMES.values())


@pytest.mark.parametrize("option", options().values(), ids=lambda option: option.name)
def test_an_option_explains_itself_and_accepts_its_default(option):
    assert option.help.endswith(".")
    assert option.name == (f"{option.table}_{option.key}" if option.table else option.key)
    default = msgspec.to_builtins(option.default)
    assert accept(option, default, "here") == option.default


def test_no_older_name_and_no_flag_is_taken_twice():
    for attribute in ("old", "flag", "hidden"):
        names = [name for option in options().values() for name in getattr(option, attribute)]
        assert len(names) == len(set(names))


def test_every_table_is_reachable_from_the_settings():
    assert set(tables()) == {"worker", "task", "result", "broker", "control", "event", "redis", "beat"}
    assert len(options()) > 180


# ---------------------------------------------------------------- schema


def test_the_schema_covers_every_option():
    schema = json_schema()
    definitions = schema["$defs"]
    for option in options().values():
        struct = Settings if not option.table else tables()[option.table]
        properties = definitions[struct.__name__]["properties"]
        assert properties[option.key]["description"] == option.help
    assert definitions["BrokerSettings"]["properties"]["url_file"]["type"] == "string"


def test_the_schema_is_json_schema():
    schema = json_schema()
    assert schema["$schema"].endswith("2020-12/schema")
    kinds = {"string", "integer", "number", "boolean", "object", "array", "null"}
    names = set(schema["$defs"])

    def check(node: typing.Any) -> None:
        if isinstance(node, list):
            for item in node:
                check(item)
        elif isinstance(node, dict):
            if isinstance(node.get("type"), str):
                assert node["type"] in kinds
            if isinstance(node.get("$ref"), str):
                assert node["$ref"].removeprefix("#/$defs/") in names
            for item in node.values():
                check(item)

    check(schema)
    msgspec.json.encode(schema)


def test_the_schema_forbids_unknown_keys():
    assert json_schema()["$defs"]["WorkerSettings"]["additionalProperties"] is False


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("worker_concurrency", "4", 4),
        ("worker_concurrency", "auto", "auto"),
        ("worker_concurrency", "none", None),
        ("worker_pool", "none", "none"),
        ("task_acks_late", "yes", True),
        ("task_acks_late", "0", False),
        ("task_acks_on_failure", "null", None),
        ("task_time_limit", "1.5", 1.5),
        ("task_time_limit", "2", 2.0),
        ("worker_queues", "a, b", ["a", "b"]),
        ("broker_transport_options", '{"lease": 30}', {"lease": 30}),
        ("broker_use_ssl", "true", True),
        ("task_protocol", "1", 1),
        ("worker_loglevel", "debug", "DEBUG"),
        ("transport", '{"redis": {"lease": 3}}', {"redis": {"lease": 3}}),
        ("redis_db", "3", 3),
    ],
)
def test_text_becomes_a_value(name, text, value):
    option = options()[name]
    found = accept(option, parse(option, text), "here")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("result_expires", timedelta(hours=1), 3600.0),
        ("result_expires", None, 0.0),
        ("task_time_limit", timedelta(seconds=5), 5.0),
        ("imports", ("a", "b"), ["a", "b"]),
        ("imports", "a", ["a"]),
        ("broker_url", ["redis://a", "redis://b"], "redis://a;redis://b"),
        ("broker_url", None, ""),
        ("broker_read_url", ["redis://a", "redis://b"], "redis://a;redis://b"),
        ("broker_write_url", None, None),
        ("task_default_delivery_mode", "transient", 1),
        ("worker_loglevel", 20, "INFO"),
        ("worker_loglevel", "warn", "WARNING"),
        ("worker_state_db", Path("x.db"), "x.db"),
    ],
)
def test_code_may_say_it_in_its_own_way(name, given, value):
    assert accept(options()[name], given, "here") == value


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("worker_concurrency", 0, "[worker] concurrency is 0; wanted a whole number >= 1, or 'auto', or nothing"),
        ("worker_concurrency", True, "wanted a whole number"),
        ("worker_pool", 3, "[worker] pool is 3; wanted a string"),
        ("worker_pool_start_method", "spoon", "wanted one of 'fork', 'spawn'"),
        ("task_acks_late", "yes", "wanted true or false"),
        ("task_time_limit", 0, "wanted a number > 0, or nothing"),
        ("task_time_limit", "10m", "wanted a number > 0, or nothing"),
        ("imports", 3, "wanted a list of strings"),
        ("broker_transport_options", "x", "wanted a table"),
        ("worker_loglevel", "loud", "is 'loud'; wanted one of 'DEBUG', 'INFO'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_wanted(name, given, wanted):
    with pytest.raises(ConfigError, match=re.escape(wanted)) as caught:
        accept(options()[name], given, "here")
    assert str(caught.value).startswith("here: ")


def test_a_wrong_secret_is_not_shown():
    with pytest.raises(ConfigError) as caught:
        accept(options()["broker_password"], ["hunter2"], "here")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:1/0", "redis://:********@host:1/0"),
        ("amqp://user:se@cret@host//", "amqp://user:********@host//"),
        ("amqp://user@host//", "amqp://user@host//"),
        ("redis://a:b@c;redis://d:e@f", "redis://a:********@c;redis://d:********@f"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_passwords_in_urls_are_masked(url, shown):
    assert mask(url) == shown
