"""`app.conf`: flat names, older names, objects, origins."""

import logging
import sys
import types

import pytest

from framework._config.conf import Conf
from framework._config.show import masked
from framework.exceptions import ConfigError


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A configuration in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return Conf()


@pytest.fixture
def module(monkeypatch):
    """A module of settings."""
    found = types.ModuleType("oldconfig")
    found.CELERYD_CONCURRENCY = 4
    found.BROKER_URL = "redis://h"
    found.os = sys
    found.helper = lambda: None
    found.OWN = "mine"
    monkeypatch.setitem(sys.modules, "oldconfig", found)
    return found


def test_names_are_attributes_and_items(conf):
    conf.task_acks_late = True
    conf["worker_concurrency"] = 3
    assert conf["task_acks_late"] is True
    assert conf.worker_concurrency == 3
    assert conf.settings.task.acks_late is True
    assert conf.get("worker_pool") == "prefork"
    assert conf.get("nope", 1) == 1


def test_settings_are_kept_until_something_changes(conf):
    first = conf.settings
    assert conf.settings is first
    conf.task_acks_late = True
    assert conf.settings is not first


def test_update(conf):
    conf.update({"worker_pool": "solo"}, task_acks_late=True)
    conf.update([("worker_concurrency", 2)])
    assert (conf.worker_pool, conf.task_acks_late, conf.worker_concurrency) == ("solo", True, 2)


def test_deleting_goes_back_to_what_lies_below(conf):
    conf.worker_pool = "solo"
    del conf["worker_pool"]
    assert conf.worker_pool == "prefork"
    with pytest.raises(KeyError):
        del conf["nope"]


def test_the_origin_of_an_assignment(conf):
    conf.task_acks_late = True
    assert str(conf.origin("task_acks_late")).startswith("app.conf (test_config_conf.py:")
    assert str(conf.origin("CELERY_ACKS_LATE")) == str(conf.origin("task_acks_late"))
    assert conf.origin("task_time_limit").layer == "default"


def test_the_file_wins_over_code(conf, tmp_path):
    (tmp_path / "framework.toml").write_text("[worker]\npool = 'threads'\n")
    conf.worker_pool = "solo"
    assert conf.worker_pool == "threads"


def test_the_file_may_lie_beside_the_application(tmp_path, monkeypatch):
    (tmp_path / "proj").mkdir()
    (tmp_path / "proj" / "framework.toml").write_text("[worker]\npool = 'threads'\n")
    monkeypatch.chdir(tmp_path)
    assert Conf(lambda: [str(tmp_path / "proj")]).worker_pool == "threads"


def test_nothing_is_read_before_somebody_asks(conf, tmp_path):
    (tmp_path / "framework.toml").write_text("[worker\n")
    conf.worker_pool = "solo"
    with pytest.raises(ConfigError, match="not valid TOML"):
        _ = conf.settings


def test_older_names_are_taken_with_one_note(conf, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            conf.update(CELERYD_CONCURRENCY=3)
    assert conf.worker_concurrency == 3
    assert conf.CELERYD_CONCURRENCY == conf["CELERY_WORKER_CONCURRENCY"] == 3
    notes = [record.getMessage() for record in caplog.records]
    assert len(notes) == 1
    assert notes[0].endswith("CELERYD_CONCURRENCY is an older name; write worker_concurrency")


def test_a_wrong_value_is_refused_at_once(conf):
    with pytest.raises(ConfigError, match=r"app\.conf \(test_config_conf\.py:\d+\): \[task\] acks_late is 'x'; wanted"):
        conf.task_acks_late = "x"


def test_a_name_of_ones_own_is_kept(conf, caplog):
    conf.my_own = {"a": 1}
    assert conf.my_own == {"a": 1}
    assert "my_own" in conf
    assert "my_own" in list(conf)
    assert not caplog.records


def test_a_near_miss_is_noted(conf, caplog):
    conf.task_ack_late = True
    assert "unknown setting task_ack_late; did you mean task_acks_late?" in caplog.text


def test_an_unknown_name_is_an_attribute_error_with_a_guess(conf):
    with pytest.raises(AttributeError, match="unknown setting task_ack_late; did you mean task_acks_late"):
        _ = conf.task_ack_late
    with pytest.raises(KeyError):
        _ = conf["nope"]


def test_from_a_module_by_name(conf, module):
    conf.config_from_object("oldconfig")
    assert (conf.worker_concurrency, conf.broker_url, conf.OWN) == (4, "redis://h", "mine")
    assert str(conf.origin("broker_url")) == "app.conf (oldconfig)"
    assert "helper" not in conf
    assert "os" not in conf


def test_from_an_object_with_a_namespace(conf):
    class Django:
        CELERY_TASK_ACKS_LATE = True
        CELERY_BROKER_URL = "redis://h"
        CELERY_ACCEPT_CONTENT = ("json", "yaml")
        DEBUG = True

    conf.config_from_object(Django, namespace="CELERY")
    assert (conf.task_acks_late, conf.broker_url, conf.accept_content) == (True, "redis://h", ["json", "yaml"])
    assert "DEBUG" not in conf


def test_from_a_mapping_and_assignments_win(conf):
    conf.worker_pool = "solo"
    conf.config_from_object({"worker_pool": "threads", "task_acks_late": True})
    assert (conf.worker_pool, conf.task_acks_late) == ("solo", True)


def test_from_a_module_that_does_not_exist(conf):
    conf.config_from_object("nosuchconfig")
    with pytest.raises(ConfigError, match="no module named nosuchconfig"):
        _ = conf.settings


def test_from_a_missing_module_silently(conf):
    conf.config_from_object("nosuchconfig", silent=True)
    assert conf.worker_pool == "prefork"


def test_from_a_missing_attribute(conf, module):
    with pytest.raises(ConfigError, match="the module oldconfig has no attribute nope"):
        conf.config_from_object("oldconfig:nope", force=True)


def test_masked_settings_hold_no_password(conf):
    conf.update(
        broker_url="redis://:hunter2@h/0",
        redis_password="hunter2",
        broker_use_ssl={"keyfile_password": "hunter2", "ca_certs": "x"},
        broker_transport_options={"sentinel_kwargs": {"password": "hunter2"}},
    )
    shown = masked(conf)
    assert "hunter2" not in repr(shown)
    assert shown["broker_url"] == "redis://:********@h/0"
    assert shown["broker_use_ssl"]["ca_certs"] == "x"
    assert len(masked(conf, with_defaults=True)) > 180
