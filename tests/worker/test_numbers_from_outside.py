"""Numbers of messages, commands and events that no sound program sends: each is refused or bounded where it is read."""

from __future__ import annotations

import json
import logging

import msgspec
import pytest

from framework.api.transport import Queue
from framework.client.events.state import Worker
from framework.client.task_policy import parse_rate
from framework.exceptions import ConfigError, MessageUndecodable
from framework.message import again, read_head
from framework.wire.clock import Clock
from framework.worker.dispatch.unknown_tasks import _mark

NAN, INFINITE = float("nan"), float("inf")
HUGE = 10**400


def test_a_clock_that_no_worker_comes_to_is_ignored_and_logged_once(caplog):
    caplog.set_level(logging.WARNING)
    clock = Clock()
    clock.adjust(7)
    for stamp in (2**63 - 1, 2**63, 2**62, 10**18, HUGE, -(2**63), True, INFINITE, NAN, "9", None):
        clock.adjust(stamp)
    assert clock.value == 8 + 11
    assert [record.message[:25] for record in caplog.records] == ["The logical clock 9e+18 o"]
    assert clock.adjust(1_000_000_000_000) == 1_000_000_000_001, "what a cluster may come to is taken"


@pytest.mark.parametrize(
    "headers",
    [
        *({"retries": value} for value in (-1, 2**31 - 1, 2**63 - 1, 2**63, 2**70, 1.5)),
        *({"deliveries": value} for value in (-1, 2**63 - 1, 2**70)),
        *({"timelimit": value} for value in ([-1, None], [None, 1e300], [2**63, None], [INFINITE, None], [None, NAN])),
    ],
    ids=str,
)
def test_counts_and_limits_of_a_message_are_bounded_on_every_broker(headers):
    with pytest.raises(MessageUndecodable):
        read_head((headers, {}, "application/json", "utf-8", b""))
    with pytest.raises(MessageUndecodable):
        read_head(json.dumps({"headers": headers, "properties": {}}).encode())


def test_what_senders_send_is_taken():
    head = read_head(({"retries": 2**31 - 2, "timelimit": [0, 86400.5], "deliveries": 0}, {}, "", "", b""))
    assert head.headers.timelimit == (0, 86400.5)


@pytest.mark.parametrize(("priority", "sent"), [(2**70, 255), (-(2**70), 0), (5, 5), ("5", None), (None, None)])
def test_the_priority_of_a_message_that_is_sent_again_fits_every_broker(priority, sent):
    assert again(({}, {"priority": priority}, "", "", b""), "q").priority == sent


@pytest.mark.parametrize("times", [2**70, HUGE], ids=["2**70", "huge"])
def test_the_mark_of_a_hand_back(times):
    assert _mark({"handed_back": {"times": times, "until": times}}) == (2**31, 0.0)


@pytest.mark.parametrize(
    "options",
    [
        *({"max_length": value} for value in (-1, 2**63)),
        {"max_length_bytes": 2**70},
        *({"max_priority": value} for value in (-1, 256)),
        *({"message_ttl": value} for value in (-1, 1e300, INFINITE, NAN)),
        {"expires": 2**32},
    ],
    ids=str,
)
def test_the_numbers_of_a_queue(options):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "q", **options}, Queue)


@pytest.mark.parametrize("freq", [0, -1, HUGE, INFINITE, NAN, "soon"], ids=lambda freq: str(freq)[:8])
def test_the_interval_of_heartbeats(freq):
    worker = Worker("w@here")
    worker.update({"type": "worker-heartbeat", "freq": freq})
    assert worker.freq == 60.0
    assert worker.alive


@pytest.mark.parametrize("rate", [HUGE, f"{HUGE}/s", INFINITE, -1], ids=["huge", "text", "infinite", "negative"])
def test_rates(rate):
    with pytest.raises(ConfigError, match="Invalid rate limit"):
        parse_rate(rate)
