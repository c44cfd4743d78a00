from __future__ import annotations

import itertools

import pytest

from framework._policy import TaskPolicy
from framework.api import pool
from framework.worker.settle import Action, decide

BASE = {
    "acks_late": True,
    "acks_on_failure": True,
    "acks_on_timeout": True,
    "reject_on_worker_lost": False,
    "retry_on_worker_lost": False,
    "max_deliveries": None,
    "ignore_result": False,
    "store_errors_even_if_ignored": False,
    "track_started": False,
    "time_limit": None,
    "soft_time_limit": None,
    "rate_limit": 0.0,
    "max_retries": 3,
    "send_events": True,
    "resultrepr_maxsize": 1024,
}


def policy(**changes):
    return TaskPolicy(**{**BASE, **changes})


@pytest.mark.parametrize(
    ("code", "changes", "action"),
    [
        (pool.SUCCESS, {}, Action.ACK),
        (pool.RETRY, {}, Action.ACK),
        (pool.IGNORED, {}, Action.ACK),
        (pool.REVOKED, {}, Action.ACK),
        (pool.TERMINATED, {}, Action.ACK),
        (pool.FAILURE, {}, Action.ACK),
        (pool.FAILURE, {"acks_on_failure": False}, Action.DEAD_LETTER),
        (pool.TIMED_OUT, {}, Action.ACK),
        (pool.TIMED_OUT, {"acks_on_timeout": False}, Action.REQUEUE),
        (pool.WORKER_LOST, {}, Action.ACK),
        (pool.WORKER_LOST, {"reject_on_worker_lost": True}, Action.REQUEUE),
        (pool.REJECTED, {}, Action.DEAD_LETTER),
        (pool.REQUEUED, {}, Action.REQUEUE),
        (pool.INVALID, {}, Action.DEAD_LETTER),
    ],
)
def test_each_end_has_one_action(code, changes, action):
    assert decide(code, policy(**changes)) is action


def test_every_code_is_decided_under_every_policy():
    codes = (value for name, value in vars(pool).items() if name.isupper() and isinstance(value, int))
    switches = ("acks_on_failure", "acks_on_timeout", "reject_on_worker_lost")
    for code, values in itertools.product(codes, itertools.product((True, False), repeat=3)):
        assert isinstance(decide(code, policy(**dict(zip(switches, values, strict=True)))), Action)
