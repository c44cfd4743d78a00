"""What the built-in autoscalers decide, and what core makes of it."""

from __future__ import annotations

import msgspec
import pytest

from framework._boot import catalog, loader
from framework._config.autoscale import Range, autoscale_range
from framework.api.autoscaler import Autoscaler, Machine, Observation
from framework.exceptions import ConfigError
from framework.worker.autoscaler import system_load
from framework.worker.autoscaler.shrink_delay import ShrinkDelay


def make(name: str, **options: object) -> Autoscaler:
    plugin = loader.load("autoscaler", name)
    return plugin(loader.options("autoscaler", name, plugin, options))


IDLE = Observation(size=2, smallest=1, largest=10, running=0, waiting=0)


def seen(**changes: object) -> Observation:
    return msgspec.structs.replace(IDLE, **changes)


def test_there_are_three():
    assert {info.name for info in catalog.plugins("autoscaler")} >= {"queue", "load", "memory"}


# ---------------------------------------------------------------- queue


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 0),
        ({"running": 2}, 2),
        # Nothing is known of the tasks: each may be long.
        ({"running": 2, "waiting": 5}, 7),
        # Long ones: a slot each.
        ({"running": 2, "waiting": 5, "runtime": 10.0}, 7),
        # 50 tasks of a hundredth of a second each: one slot has done them in half a second.
        ({"running": 1, "waiting": 50, "runtime": 0.01}, 1),
        ({"running": 1, "waiting": 50, "runtime": 0.1}, 10),
        ({"running": 2, "waiting": 100, "runtime": 0.1}, 20),
        # What runs keeps its slots.
        ({"running": 6, "waiting": 1, "runtime": 0.01}, 6),
        # It should have been enough, and was not.
        ({"size": 3, "running": 3, "waiting": 50, "runtime": 0.001, "backed_up": 1.0}, 6),
        ({"size": 3, "running": 3, "waiting": 1, "runtime": 0.001, "backed_up": 1.0}, 4),
    ],
)
def test_the_queue_decides_by_what_waits_and_how_long_it_takes(changes, size):
    assert make("queue").decide(seen(**changes)) == size


def test_more_patience_takes_fewer_slots():
    burst = seen(running=1, waiting=50, runtime=0.1)
    assert [make("queue", patience=patience).decide(burst) for patience in (0.1, 1.0, 5.0)] == [50, 5, 1]
    with pytest.raises(ConfigError, match=r"\[autoscaler.queue\]"):
        make("queue", patience=0)


# ---------------------------------------------------------------- load, memory


def with_machine(load: float = 0.0, free: int = 4000, total: int = 8000, **changes: object) -> Observation:
    return seen(machine=Machine(load=load, memory_free=free, memory_total=total), **changes)


@pytest.mark.parametrize(
    ("observation", "size"),
    [
        (with_machine(0.1), 0),
        (with_machine(0.1, running=2), 2),
        (with_machine(0.1, size=4, running=4, waiting=1), 6),
        (with_machine(0.1, size=1, running=1, waiting=1), 2),
        (with_machine(1.0, size=4, running=4, waiting=1), 4),
        (with_machine(2.4, size=4, running=4, waiting=1), 2),
        (with_machine(99.0, size=4, running=4, waiting=1), 0),
    ],
)
def test_load_decides_by_the_load_average(observation, size):
    assert make("load").decide(observation) == size


@pytest.mark.parametrize(
    ("observation", "size"),
    [
        (with_machine(running=2), 2),
        # 800 are the reserve, 1024 are left: room for 8 of 128, of which half at a time.
        (with_machine(free=1824, size=2, running=2, waiting=1), 6),
        (with_machine(free=930, size=2, running=2, waiting=1), 3),
        (with_machine(free=900, size=2, running=2, waiting=1), 2),
        (with_machine(free=500, size=8, running=8, waiting=1), 5),
    ],
)
def test_memory_decides_by_what_is_available(observation, size):
    assert make("memory").decide(observation) == size


def test_the_machine_is_looked_at():
    found = system_load.measure()
    assert found.load >= 0
    assert 0 < found.memory_free <= found.memory_total


def test_a_containers_limit_counts(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\n")
    mib = 1024 * 1024
    (tmp_path / "memory.max").write_text(f"{1024 * mib}\n")
    (tmp_path / "memory.current").write_text(f"{600 * mib}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {100 * mib}\n")
    found = system_load.measure(meminfo, tmp_path)
    assert (found.memory_free, found.memory_total) == (524, 1024)
    (tmp_path / "memory.max").write_text("max\n")
    found = system_load.measure(meminfo, tmp_path)
    assert (found.memory_free, found.memory_total) == (4096, 8192)
    # Elsewhere than on Linux nothing says what is free.
    found = system_load.measure(tmp_path / "nothing", tmp_path / "nothing")
    assert found.memory_free == found.memory_total > 0


# ---------------------------------------------------------------- core's part


def test_growth_is_allowed_at_once_and_shrinking_after_a_while():
    keep = ShrinkDelay(30)
    assert keep.allow(0, 3, 10) == 10
    assert keep.allow(1, 10, 2) == 10
    assert keep.allow(20, 10, 4) == 10
    assert keep.allow(30, 10, 1) == 10
    # The largest of what was wanted meanwhile.
    assert keep.allow(31, 10, 1) == 4
    assert keep.allow(32, 4, 1) == 4
    # One moment of need starts the wait anew.
    assert keep.allow(50, 4, 4) == 4
    assert keep.allow(63, 4, 1) == 4
    assert keep.allow(92, 4, 1) == 4
    assert keep.allow(93, 4, 1) == 1


@pytest.mark.parametrize(
    ("text", "bounds"), [("10,3", (10, 3)), ("3,10", (10, 3)), (" 4 ", (4, 0)), ("2,2", (2, 2)), ("5,0", (5, 0))]
)
def test_the_sizes_are_read_in_either_order(text, bounds):
    assert autoscale_range(text) == bounds


def test_no_smallest_size_is_one_slot():
    assert Range(4, 0).start == 1
    assert Range(4, 3).start == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "MAX,MIN like 10,3"),
        ("many", "autoscale is 'many'"),
        ("3,2,1", "MAX,MIN like 10,3"),
        ("0", "largest size of the pool is 0; wanted at least 1"),
        ("-1,3", "smallest size of the pool is -1; wanted at least 0"),
        ("20000", "wanted at most 10000"),
    ],
)
def test_other_sizes_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        autoscale_range(text)
