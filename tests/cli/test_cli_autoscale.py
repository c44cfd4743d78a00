"""`framework autoscale simulate`: what it models, draws and refuses."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from framework._config.autoscale import Range
from framework.api.autoscaler import Autoscaler, Observation
from framework.api.plugin import NoOptions
from framework.testing.simulation import PATTERNS, SimulatedLoad, SimulatedTask, Simulation, SimulationReport
from framework.worker.intake.capacity import Prefetch


class Fixed(Autoscaler):
    def decide(self, seen: Observation) -> int:
        return 3


class Demand(Autoscaler):
    def decide(self, seen: Observation) -> int:
        return seen.running + seen.waiting


class Free(Autoscaler):
    """Goes by the memory, a slot a GiB."""

    basis = "machine"

    def decide(self, seen: Observation) -> int:
        assert seen.machine is not None
        assert seen.waiting <= 1
        return seen.size + 1 if seen.waiting and seen.machine.memory_free >= 1024 else seen.size


def simulate(
    kind: type[Autoscaler], jobs: list[SimulatedTask], keepalive: float = 2.0, **world: float
) -> SimulationReport:
    made = SimulatedLoad(**{"startup": 0.0, **world})  # type: ignore[arg-type]
    return Simulation(kind(NoOptions()), Range(5, 1), keepalive, Prefetch(1, 1), made).run(jobs)


def test_a_job_runs_when_a_slot_is_free():
    # One slot: the second waits for the first. Short enough that the pool does not grow meanwhile.
    report = simulate(Fixed, [SimulatedTask(0.0, 0.005), SimulatedTask(0.0, 0.005)])
    assert (report.tasks, report.wait_max, report.wait_mean) == (2, 0.005, 0.0025)


def test_what_waits_makes_it_grow_once_and_idleness_makes_it_shrink():
    report = simulate(Demand, [SimulatedTask(10.5, 4.0)] * 4)
    assert (report.largest_size, report.ups, report.downs) == (4, 1, 1)
    assert report.wait_max == pytest.approx(0.02)
    # 10.5 seconds of one slot, 4 of work and 2 to 4 of keep-alive with four.
    assert 10.5 + 24 <= report.slot_seconds <= 10.5 + 32
    assert report.used == pytest.approx(16 / report.slot_seconds)
    assert report.samples[0].size == report.samples[-1].size == 1


def test_slots_take_time_to_start():
    assert simulate(Demand, [SimulatedTask(0.0, 9.0)] * 2, startup=1.5).wait_max == pytest.approx(1.75)


def test_the_bounds_hold():
    report = simulate(Demand, [SimulatedTask(0.0, 5.0)] * 50)
    assert {sample.size for sample in report.samples} <= set(range(1, 6))
    assert report.largest_size == 5


def test_an_autoscaler_that_never_shrinks_ends_too():
    report = simulate(Fixed, [SimulatedTask(0.0, 5.0)] * 3)
    assert report.samples[-1].size == 3
    assert report.downs == 0


def test_the_machine_is_modelled():
    report = simulate(Free, [SimulatedTask(0.0, 60.0)] * 9, memory_mib=4096, slot_mib=1024)
    assert report.largest_size == 4


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_the_same_for_the_same_number(name):
    make = PATTERNS[name]
    assert make(random.Random(1)) == make(random.Random(1)) != make(random.Random(2))


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("name", ["queue", "load", "memory"])
def test_it_draws_and_counts(run, name):
    code, output, errors = run(
        "autoscale", "simulate", "--pattern", "burst", "--autoscaler", name, "--autoscale", "8,2"
    )
    assert code == 0, errors
    assert f"autoscaler    {name}, 2 to 8 slots" in output
    assert "tasks         200" in output
    for word in ("waiting", "slots", "slot-seconds", "p99 wait", "█"):
        assert word in output


def test_json_has_the_figures_and_the_curve(run):
    found = json.loads(run("autoscale", "simulate", "--pattern", "steady", "--json")[1])
    assert found["tasks"] == len(PATTERNS["steady"](random.Random(1)))
    assert found["slot_seconds"] < found["fixed_slot_seconds"]
    assert found.keys() >= {
        "wait_mean",
        "wait_p99",
        "wait_max",
        "autoscaler",
        "max",
        "min",
        "keepalive",
        "ups",
        "downs",
    }
    assert len(found["samples"]) == 200
    assert found["samples"][0].keys() == {"time", "size", "running", "waiting"}
    assert max(sample["size"] for sample in found["samples"]) == found["largest_size"]


def test_a_trace_is_read(run, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("sent,runs\n5, 2.0\n0,1.0\n\n0.5,3\n")
    found = json.loads(run("autoscale", "simulate", "--trace", str(trace), "--json")[1])
    assert found["tasks"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3\n", "line 2: wanted two numbers, like 12.5,0.3, and found '3'"),
        ("1,2\nx,3\n", "line 2: wanted two numbers"),
        ("1,-2\n", "line 1: wanted two numbers"),
        ("nan,1\n0,inf\n", "line 2: wanted two numbers"),
        ("sent,runs\n", "lists no tasks"),
        (None, "cannot be read"),
    ],
)
def test_a_trace_that_is_none_is_refused(run, tmp_path, text, message):
    trace = tmp_path / "trace.csv"
    if text is not None:
        trace.write_text(text)
    code, _, errors = run("autoscale", "simulate", "--trace", str(trace))
    assert code == 78
    assert message in errors


def test_what_makes_no_sense_is_refused(run):
    def refused(*args: str) -> str:
        code, _, errors = run("autoscale", "simulate", *args)
        assert code
        return str(errors)

    assert "give either --pattern or --trace" in refused()
    assert "did you mean 'queue'" in refused("--pattern", "burst", "--autoscaler", "quue")
    assert "cannot be imported" in refused("--pattern", "burst", "--autoscaler", f"{__name__}:nothing")


def test_the_report_is_plain_data():
    assert msgspec.json.decode(msgspec.json.encode(simulate(Fixed, [SimulatedTask(0.0, 1.0)])))["tasks"] == 1
