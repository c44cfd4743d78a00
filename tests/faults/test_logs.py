"""A worker's log: what is alarming in it, and what a worker under faults may well say."""

from __future__ import annotations

import pytest

from faults.logs import alarms

STAMP = "[2026-01-01 10:00:00,000: {}/MainProcess] "


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        STAMP.format("CRITICAL") + "The pool reported a job twice, or one that it was never given: 7",
        STAMP.format("ERROR") + "Defect in the worker's loop: KeyError(1)",
        STAMP.format("ERROR") + "Task 'faults.late' is lost, it could not be sent again: no route",
        "Exception ignored in: <function Socket.__del__ at 0x7f0000000000>",
        "/app/work.py:1: RuntimeWarning: coroutine 'work' was never awaited",
    ],
)
def test_what_is_alarming_is_found_with_its_surroundings(line):
    log = "\n".join(["first", "before", line, "after"])
    [found] = alarms(log)
    assert found == log


@pytest.mark.parametrize(
    "line",
    [
        STAMP.format("WARNING") + "Put back 3 messages that worker vm-1-2 left unacknowledged in celery",
        STAMP.format("WARNING")
        + "consumer: Connection to broker lost. Trying to re-establish the connection... (the connection was lost)",
        STAMP.format("ERROR") + "Results cannot be stored and are kept until they can: Connection refused",
        STAMP.format("ERROR") + "consumer: Cannot connect to redis://: refused. Trying again in 1 seconds...",
        STAMP.format("ERROR") + "Task proj.x[1]: the connection to amqp://127.0.0.1:1/t1 was lost: reset by peer",
        STAMP.format("WARNING") + "A message was dropped: there is no reply queue in the broker",
        STAMP.format("INFO") + "Task faults.late[s1-1] succeeded in 0.1s: 's1-1'",
    ],
)
def test_a_broker_that_is_away_is_no_cause_for_alarm(line):
    assert alarms(line) == []


def test_one_story_is_told_once():
    log = "\n".join(["Traceback (most recent call last):", "Traceback (most recent call last):", *["…"] * 30])
    assert len(alarms(log)) == 1
