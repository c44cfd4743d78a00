"""Pools that are scaled between two sizes (acceptance K 131-138, C 46)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import ledger, workers
from support.wait import wait_for

POOLS = ["prefork", "threads", "gevent", "eventlet", "asyncio"]
KEEPALIVE = {"AUTOSCALE_KEEPALIVE": "0.5"}


class Scaled:
    """One worker that is scaled, and a client."""

    def __init__(self, worker: workers.WorkerProcess, app: Any) -> None:
        self.worker = worker
        self.app = app
        #: Every size that was seen.
        self.sizes: list[int] = []

    @property
    def stats(self) -> dict[str, Any]:
        return self.app.control.inspect(self.worker.node, timeout=20).stats()

    @property
    def size(self) -> int:
        stats = self.stats
        assert stats["autoscaler"]["current"] == stats["pool"]["max-concurrency"]
        self.sizes.append(stats["autoscaler"]["current"])
        return self.sizes[-1]

    @property
    def active(self) -> int:
        return len(self.app.control.inspect(self.worker.node, timeout=20).active())

    def has_size(self, size: int, timeout: float = 15) -> None:
        wait_for(lambda: self.size == size, timeout, lambda: f"size {size}, {self.sizes}: {self.worker.output[-2000:]}")

    def autoscale(self, *bounds: int | None) -> dict[str, str]:
        (reply,) = self.app.control.autoscale(*bounds, reply=True, timeout=20, limit=1)
        return reply[self.worker.node]

    @contextlib.contextmanager
    def holding(self, count: int, gate: Path) -> Iterator[list[Any]]:
        """Keep `count` tasks going until the block ends; then all of them must succeed."""
        results = [self.app.tasks["proj.hold"].delay(str(gate)) for _ in range(count)]
        try:
            yield results
        finally:
            gate.touch()
        for result in results:
            assert result.get(timeout=20) > 0


@pytest.fixture
def scaled(start_worker, client, redis_url) -> Callable[..., Scaled]:
    def start(*args: str, env: dict[str, str] | None = None, **options: Any) -> Scaled:
        worker = start_worker(*args, broker=redis_url, backend=redis_url, env={**KEEPALIVE, **(env or {})}, **options)
        return Scaled(worker, client(redis_url, redis_url))

    return start


def changes(worker: workers.WorkerProcess) -> list[int]:
    """Return by how much the log says that the pool was scaled, each time."""
    found = re.findall(r"Scaling (up|down) (\d+) processes\.", worker.output)
    return [int(n) if way == "up" else -int(n) for way, n in found]


@pytest.mark.acceptance(131, 132, 133, 134, 137)
@pytest.mark.parametrize("pool", POOLS)
def test_the_pool_follows_what_there_is_to_do(pool, scaled, tmp_path):
    fleet = scaled("-P", pool, "--autoscale", "10,3" if pool != "gevent" else "3,10")
    assert fleet.size == 3
    assert "{min=3, max=10}" in fleet.worker.output
    with fleet.holding(20, tmp_path / "gate"):
        wait_for(lambda: fleet.size == 10 and fleet.active == 10, 30, lambda: fleet.worker.output[-2000:])
        found = fleet.stats["autoscaler"]
        assert {key: found[key] for key in ("max", "min", "current")} == {"max": 10, "min": 3, "current": 10}
        # Received: those that run, and at the most as many as the worker may hold beside them.
        assert found["qty"] >= 10
    fleet.has_size(3)
    assert fleet.stats["autoscaler"]["qty"] == 0
    assert set(fleet.sizes) <= set(range(3, 11))
    # A line a change, and few changes: a burst is not taken in step by step, and nothing flutters.
    assert sum(changes(fleet.worker)) == 0
    assert len(changes(fleet.worker)) <= 6


@pytest.mark.acceptance(138)
@pytest.mark.parametrize("pool", POOLS)
def test_the_sizes_are_changed_by_remote_control_and_no_task_is_hurt(pool, scaled, tmp_path):
    fleet = scaled("-P", pool, "--autoscale", "6,1")
    with fleet.holding(6, tmp_path / "gate"):
        wait_for(lambda: fleet.active == 6, 30, lambda: fleet.worker.output[-2000:])
        assert fleet.autoscale(2, 1) == {"ok": "autoscale now max=2 min=1"}
        assert fleet.size == 2
        assert fleet.active == 6
    assert fleet.autoscale(5, 4) == {"ok": "autoscale now max=5 min=4"}
    assert fleet.size == 4
    assert fleet.autoscale(None, 2) == {"ok": "autoscale now max=5 min=2"}
    assert "below the smallest" in fleet.autoscale(1, 2)["error"]
    assert "at least 1" in fleet.autoscale(0, 0)["error"]
    assert fleet.size in (2, 3, 4)


@pytest.mark.acceptance(138)
def test_without_the_option_there_is_nothing_to_change(scaled):
    fleet = scaled("-P", "threads", "-c", "2")
    assert fleet.autoscale(4, 1) == {"error": "Autoscale not enabled: start the worker with --autoscale MAX,MIN"}
    assert "autoscaler" not in fleet.stats


@pytest.mark.acceptance(135)
def test_one_number_is_the_largest_size_and_one_slot_stays(scaled, tmp_path):
    fleet = scaled("-P", "prefork", "--autoscale=4", "-c", "7")
    assert fleet.size == 1
    assert fleet.stats["autoscaler"]["min"] == 0
    assert fleet.worker.lines("scaled between 0 and 4 slots: --concurrency is ignored")
    with fleet.holding(5, tmp_path / "gate"):
        wait_for(lambda: fleet.active == 4, 30, lambda: fleet.worker.output[-2000:])
    fleet.has_size(1)
    assert fleet.app.tasks["proj.add"].delay(2, 2).get(timeout=20) == 4


@pytest.mark.acceptance(46)
def test_log_files_keep_to_the_largest_size(scaled, tmp_path):
    fleet = scaled("-n", "w@here", "-P", "prefork", "--autoscale=3,1", "-f", f"{tmp_path}/%n-%i.log", ready=False)
    wait_for(lambda: (tmp_path / "w-0.log").exists() and "ready." in (tmp_path / "w-0.log").read_text(), 20)
    inspect = fleet.app.control.inspect("w@here", timeout=20)
    for number in range(2):
        gate = tmp_path / f"gate{number}"
        with fleet.holding(8, gate):
            wait_for(lambda: len(inspect.active()) == 3, 30)
        wait_for(lambda: inspect.stats()["autoscaler"]["current"] == 1, 30)
    assert sorted(path.name for path in tmp_path.glob("w-*.log")) == ["w-0.log", "w-1.log", "w-2.log", "w-3.log"]


CUSTOM = """
from framework.worker.autoscaler import Autoscaler
from framework.api.autoscaler import Autoscaler as Decider

class Stubborn(Autoscaler):
    def _maybe_scale(self, req=None):
        if self.qty >= 2 and self.processes < self.max_concurrency:
            return self.scale_up(100)
        if not self.qty and self.processes > self.min_concurrency:
            return self.scale_down(100)

class Always(Decider):
    def decide(self, seen):
        return 5

class Broken(Decider):
    def decide(self, seen):
        raise RuntimeError("no idea")

class Nothing:
    pass
"""


@pytest.fixture
def custom(tmp_path) -> dict[str, str]:
    (tmp_path / "custom_scaling.py").write_text(CUSTOM)
    return {"PYTHONPATH": f"{workers.APP_DIR.parent}:{tmp_path}"}


@pytest.mark.acceptance(136)
def test_a_subclass_of_the_guide_decides(scaled, custom, tmp_path):
    fleet = scaled(
        *("-P", "threads", "--autoscale", "6,2"), env=custom, conf={"CELERYD_AUTOSCALER": "custom_scaling:Stubborn"}
    )
    assert fleet.size == 2
    with fleet.holding(3, tmp_path / "gate"):
        fleet.has_size(6)
    fleet.has_size(2)
    assert changes(fleet.worker) == [4, -4]


def test_a_class_of_the_contract_may_be_named_too(scaled, custom):
    fleet = scaled("-P", "threads", "--autoscale", "8,2", "--autoscaler", "custom_scaling:Always", env=custom)
    fleet.has_size(5)


def test_an_autoscaler_that_fails_leaves_the_pool_as_it_is(scaled, custom):
    fleet = scaled("-P", "threads", "--autoscale", "8,2", "--autoscaler", "custom_scaling:Broken", env=custom)
    fleet.worker.wait_line("The autoscaler failed; the pool stays at 2 slots")
    for number in range(5):
        assert fleet.app.tasks["proj.add"].delay(number, 2).get(timeout=20) == number + 2
    fleet.worker.stop()
    assert len(fleet.worker.lines("The autoscaler failed")) == 1


@pytest.mark.parametrize("name", ["load", "memory"])
def test_what_the_machine_has_left_decides(name, scaled, tmp_path):
    conf = {"autoscaler": {"load": {"target": 1e6, "ceiling": 1e6}, "memory": {"slot": 1, "reserve": 0.0}}}
    fleet = scaled("-P", "threads", "--autoscale", "4,1", "--autoscaler", name, conf=conf)
    with fleet.holding(6, tmp_path / "gate"):
        wait_for(lambda: fleet.active == 4, 30, lambda: fleet.worker.output[-2000:])
    fleet.has_size(1)


def test_a_machine_that_is_busy_gets_no_more_slots(scaled, tmp_path):
    conf = {"autoscaler": {"load": {"target": 1e-9, "ceiling": 1e6}}}
    fleet = scaled("-P", "threads", "--autoscale", "4,2", "--autoscaler", "load", conf=conf)
    with fleet.holding(8, tmp_path / "gate"):
        wait_for(lambda: fleet.active == 2, 30)
        # What the worker cannot run soon stays where others find it.
        wait_for(lambda: fleet.stats["autoscaler"]["qty"] == 3, 30)
        assert fleet.size == 2


def test_no_task_is_lost_or_repeated_over_it(scaled, ledger_path):
    fleet = scaled("-P", "prefork", "--autoscale", "4,1", ledger=ledger_path, env={"AUTOSCALE_KEEPALIVE": "0"})
    sent = list(range(600))
    for number in sent:
        fleet.app.tasks["proj.record_late"].delay(number)
        if number % 200 == 199:
            wait_for(lambda number=number: ledger.size(ledger_path) > number, 30)
            fleet.has_size(1)
    assert ledger.balance(sent, ledger_path).balanced


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-P", "solo", "--autoscale", "3,1"), "the pool 'solo' has a fixed size and cannot be scaled"),
        (("--autoscale", "many"), "autoscale is 'many'; wanted two sizes, MAX,MIN like 10,3, or MAX alone"),
        (("--autoscale", "3,1", "--autoscaler", "queues"), "no autoscaler named 'queues' is installed; did you mean"),
        (("--autoscale", "3,1", "--autoscaler", "nowhere:Class"), "cannot be imported: No module named 'nowhere'"),
        (("--autoscale", "3,1", "--autoscaler", "custom_scaling:Nothing"), "is no subclass of framework.worker"),
        (("--autoscale", "3,1", "--autoscaler", "custom_scaling:Missing"), "cannot be imported: module"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_refused_at_the_start(args, message, custom, sqlite_url):
    done = workers.run_command("-A", "proj", "worker", *args, env=custom | workers.app_environment(broker=sqlite_url))
    assert done.returncode == 78, done
    assert message in done.stderr
