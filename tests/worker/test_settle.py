"""The table of ends: what follows each end of a task, and how Celery's settings fill it in."""

from __future__ import annotations

import itertools

import pytest

from framework import App
from framework.api import pool
from framework.client.after_end import Action, Ends, decide
from framework.exceptions import ConfigError

CODES = [value for name, value in vars(pool).items() if name.isupper() and isinstance(value, int)]
LATE = {"failure": "ack", "soft_timeout": "ack", "hard_timeout": "ack", "worker_lost": "ack", "shutdown": "requeue"}


@pytest.mark.parametrize(
    ("code", "ends", "action"),
    [
        (pool.SUCCESS, {}, Action.ACK),
        (pool.RETRY, {}, Action.ACK),
        (pool.IGNORED, {}, Action.ACK),
        (pool.REVOKED, {}, Action.ACK),
        (pool.TERMINATED, {}, Action.ACK),
        (pool.REJECTED, {}, Action.DEAD_LETTER),
        (pool.REQUEUED, {}, Action.REQUEUE),
        (pool.INVALID, {}, Action.DEAD_LETTER),
        (pool.FAILURE, {}, Action.ACK),
        (pool.FAILURE, {"failure": Action.DEAD_LETTER}, Action.DEAD_LETTER),
        # The process that ran it has retried it as often as it may.
        (pool.FAILURE, {"failure": Action.RETRY}, Action.ACK),
        (pool.SOFT_TIMED_OUT, {"failure": Action.DEAD_LETTER}, Action.ACK),
        (pool.SOFT_TIMED_OUT, {"soft_timeout": Action.DEAD_LETTER}, Action.DEAD_LETTER),
        (pool.TIMED_OUT, {"soft_timeout": Action.REQUEUE}, Action.ACK),
        (pool.TIMED_OUT, {"hard_timeout": Action.REQUEUE}, Action.REQUEUE),
        (pool.WORKER_LOST, {}, Action.ACK),
        (pool.WORKER_LOST, {"worker_lost": Action.RETRY}, Action.RETRY),
    ],
)
def test_each_end_has_one_action(code, ends, action):
    assert decide(code, Ends(**ends), 0, 3) is action


def test_retries_are_counted():
    ends = Ends(worker_lost=Action.RETRY)
    assert decide(pool.WORKER_LOST, ends, 2, 3) is Action.RETRY
    assert decide(pool.WORKER_LOST, ends, 3, 3) is Action.ACK
    assert decide(pool.WORKER_LOST, ends, 1_000, None) is Action.RETRY


def test_every_code_is_decided_in_every_table():
    for code, cells in itertools.product(CODES, itertools.product(Action, repeat=len(Ends.__struct_fields__))):
        ends = Ends(**dict(zip(Ends.__struct_fields__, cells, strict=True)))
        assert isinstance(decide(code, ends, 0, 3), Action)


def ends_of(conf=(), **options):
    app = App("t", broker="memory://ends")
    app.conf.update(dict(conf))
    task = app.task(name="t", **options)(lambda: None)
    return {name: getattr(task.policy.ends, name).value for name in Ends.__struct_fields__}


@pytest.mark.parametrize(
    ("options", "cells"),
    [
        ({}, {}),
        ({"acks_on_failure": False}, {"failure": "dead-letter", "soft_timeout": "dead-letter"}),
        ({"acks_on_timeout": False}, {"hard_timeout": "requeue"}),
        (
            {"acks_on_failure_or_timeout": False},
            {"failure": "dead-letter", "soft_timeout": "dead-letter", "hard_timeout": "requeue"},
        ),
        ({"acks_on_failure_or_timeout": False, "acks_on_failure": True}, {"hard_timeout": "requeue"}),
        ({"reject_on_worker_lost": True}, {"worker_lost": "requeue"}),
        ({"reject_on_worker_lost": True, "retry_on_worker_lost": True}, {"worker_lost": "retry"}),
        ({"reject_on_worker_lost": True, "ends": {"worker_lost": "dead-letter"}}, {"worker_lost": "dead-letter"}),
    ],
)
def test_the_names_of_celery_are_cells(options, cells):
    assert ends_of(acks_late=True, **options) == LATE | cells
    conf = {f"task_{name}": value for name, value in options.items()}
    assert ends_of(conf, acks_late=True) == LATE | cells


def test_what_is_acknowledged_early_has_nothing_to_give_back():
    early = dict.fromkeys(LATE, "ack")
    assert ends_of(acks_on_failure=False, acks_on_timeout=False, reject_on_worker_lost=True) == early
    assert ends_of(retry_on_worker_lost=True) == early | {"worker_lost": "retry"}
    everywhere = {"task_ends": {"failure": "requeue", "hard_timeout": "retry"}}
    assert ends_of(everywhere) == early | {"hard_timeout": "retry"}
    with pytest.raises(ConfigError, match="the ends of t: only a message that is acknowledged late can be requeued"):
        ends_of(ends={"failure": "requeue"})


def test_the_task_wins_over_the_setting():
    conf = {"task_ends": {"failure": "retry", "worker_lost": "retry"}}
    assert ends_of(conf, acks_late=True, ends={"failure": "ack"}) == LATE | {"worker_lost": "retry"}


@pytest.mark.parametrize(("ends", "word"), [({"falure": "ack"}, "failure"), ({"failure": "drop"}, "dead-letter")])
def test_what_there_is_not_is_refused_in_words(ends, word):
    with pytest.raises(ConfigError, match=f"the ends of t: .*{word}"):
        ends_of(acks_late=True, ends=ends)
    with pytest.raises(ConfigError, match=word):
        ends_of({"task_ends": ends}, acks_late=True)
