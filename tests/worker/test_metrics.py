"""What a worker counts and judges, and how that is written for Prometheus."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from framework.api import pool as outcomes
from framework.client.after_end import Action
from framework.worker.steps.health import counters as meters
from framework.worker.steps.health.counters import ENDS, OTHERS, Counters
from framework.worker.steps.health.prometheus import FAMILIES, MetricsSource, exposition
from framework.worker.steps.health.sample import HealthSampler, is_stopped

MANUAL = Path(__file__).parent.parent.parent / "docs" / "health.md"


def item(name="t", seq=1, *, started=0.0, pid=0, limit=None, deliveries=0):
    return SimpleNamespace(
        name=name,
        seq=seq,
        started=started,
        pid=pid,
        delivery=SimpleNamespace(deliveries=deliveries),
        head=SimpleNamespace(headers=SimpleNamespace(timelimit=None)),
        policy=SimpleNamespace(time_limit=limit),
    )


class Worker:
    """As much of a worker as is looked at."""

    def __init__(self, slots=1, pids=()):
        self.meter = Counters()
        self.running = {}
        self.backlog = []
        self.letters = {}
        info = {"max-concurrency": slots, "processes": list(pids)}
        self.vitals = HealthSampler(
            SimpleNamespace(info=lambda: info, traits=SimpleNamespace(processes=bool(pids))),
            SimpleNamespace(backlog=self.backlog, rates=[], schedule=[], connected=True, connections=1, fetching=True),
            SimpleNamespace(running=self.running, overfull=False, unstored=0),
            SimpleNamespace(limit=4),
            SimpleNamespace(sent=self.letters),
            [object()],
            SimpleNamespace(
                task=SimpleNamespace(time_limit=None),
                worker=SimpleNamespace(health_patience=10.0, proc_alive_timeout=10.0),
            ),
            self.meter,
        )

    def put(self, *items):
        self.running.update({each.seq: each for each in items})
        self.vitals.update()

    def metrics(self):
        text = exposition(MetricsSource("a@b", "threads", time.monotonic(), self.vitals, self.meter, dict))
        return text, list(text_string_to_metric_families(text))


@pytest.fixture
def clock(monkeypatch):
    """The time as `HealthSampler` sees it; `clock.now += 5` lets it pass."""
    found = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("framework.worker.steps.health.sample.monotonic", lambda: found.now)
    return found


# ---------------------------------------------------------------- counting


def test_every_end_has_a_word():
    codes = {value for name, value in vars(outcomes).items() if name.isupper() and isinstance(value, int)}
    assert set(ENDS) == codes
    assert len(set(ENDS.values())) == len(ENDS)


def test_ends_are_counted_by_what_follows_them():
    meter = Counters()
    meter.finished(item(), outcomes.SUCCESS, 2.0, Action.ACK)
    meter.finished(item(), outcomes.FAILURE, 1.0, Action.ACK)
    meter.finished(item(), outcomes.FAILURE, 0.0, Action.RETRY)
    meter.finished(item(deliveries=1), outcomes.WORKER_LOST, 0.0, Action.REQUEUE)
    meter.discarded(item())
    count = meter.tasks["t"]
    told = {ENDS[code]: number for code, number in enumerate(count.ends) if number}
    assert told == {"succeeded": 1, "failed": 1, "retried": 1, "requeued": 1, "revoked": 1}
    assert (count.runs, count.seconds, meter.ends, meter.redelivered) == (4, 3.0, 5, 1)


def test_names_are_bounded(monkeypatch):
    monkeypatch.setattr(meters, "NAMES_MAX", 2)
    meter = Counters()
    for name in ("a", "b", "c", "d", "a", "d"):
        meter.finished(item(name), outcomes.SUCCESS, 0.0, Action.ACK)
    assert {name: count.runs for name, count in meter.tasks.items()} == {"a": 2, "b": 1, OTHERS: 3}


# ---------------------------------------------------------------- the format


def test_the_exposition_is_read_by_prometheus_and_keeps_every_name():
    worker = Worker()
    ugly = 'a"b\\c\nd\u2028é'
    worker.meter.finished(item(ugly), outcomes.SUCCESS, 0.5, Action.ACK)
    worker.letters["unregistered"] = 2
    worker.vitals.update()
    text, families = worker.metrics()
    samples = {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}
    assert samples["framework_tasks_total", ("outcome", "succeeded"), ("task", ugly)] == 1
    assert samples["framework_task_runtime_seconds_total", ("task", ugly)] == 0.5
    assert samples["framework_dead_letters_total", ("reason", "unregistered")] == 2
    assert text.endswith("\n")
    # The parser takes the suffix of a counter off.
    assert [family.name for family in families] == [
        each.name.removesuffix("_total") if each.type == "counter" else each.name for each in FAMILIES
    ]
    assert [family.type for family in families] == [each.type for each in FAMILIES]


def test_names_follow_the_conventions():
    for family in FAMILIES:
        assert re.fullmatch(r"(framework|process)_[a-z_]+", family.name)
        assert family.name.endswith("_total") == (family.type == "counter")
        assert family.help.endswith(".")
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_the_manual_speaks_of_metrics_that_there_are():
    text = MANUAL.read_text()
    known = {family.name for family in FAMILIES}
    assert known <= set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    assert set(re.findall(r"framework_[a-z_]+", text)) <= known
    words = text.partition("`outcome` is one of")[2].partition(". Names")[0]
    assert set(re.findall(r"`(\w+)`", words)) == set(ENDS.values())


# ---------------------------------------------------------------- judging


def test_a_long_task_is_no_illness(clock):
    worker = Worker()
    worker.put(item(started=1.0), item(seq=2))
    clock.now += 100_000
    worker.vitals.update()
    assert worker.vitals.not_live() == []


def test_a_task_past_its_limit_that_nobody_ends_is_one(clock):
    worker = Worker(slots=2)
    worker.put(item(seq=1, started=1.0, limit=60), item(seq=2, started=1.0, limit=60))
    clock.now += 69
    worker.vitals.update()
    assert worker.vitals.not_live() == []
    clock.now += 2
    worker.vitals.update()
    assert "all 2 slots are stuck" in worker.vitals.not_live()[0]
    # Where one ends, the other is not the whole pool.
    del worker.running[1]
    worker.vitals.update()
    assert worker.vitals.not_live() == []


def test_what_waits_where_nothing_runs_has_to_begin(clock):
    worker = Worker()
    worker.backlog.append(item())
    clock.now += 19
    worker.vitals.update()
    assert worker.vitals.not_live() == []
    clock.now += 2
    worker.vitals.update()
    assert worker.vitals.not_live() == ["1 tasks wait, and none has started for 21 s"]
    worker.meter.starts += 1
    worker.vitals.update()
    assert worker.vitals.not_live() == []


def test_a_sample_that_is_old_says_that_the_loop_is_frozen(clock):
    worker = Worker()
    clock.now += 11
    assert worker.vitals.not_live() == ["the loop has not run for 11 s"]


def test_a_process_that_is_not_there_is_not_stopped():
    assert not is_stopped(2**22 + 1)
