"""Real workers in control groups with a CPU quota or a memory limit, as a container has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.wait import wait_for

ROOT = Path("/sys/fs/cgroup")


@pytest.fixture
def group(tmp_path):
    """Return what makes a group, and gives the command that runs another one in it."""
    made = []

    def make(controller, files):
        at = ROOT / controller if (ROOT / controller).is_dir() else ROOT
        path = at / f"framework-test-{os.getpid()}-{tmp_path.name}"
        try:
            path.mkdir()
            made.append(path)
            for name, text in files.items():
                (path / name).write_text(text)
        except OSError:
            pytest.skip(f"no group with {', '.join(files)} can be made here")
        return ("sh", "-c", f'echo $$ > {path}/cgroup.procs && exec "$@"', "sh")

    yield make
    for path in made:
        wait_for(lambda path=path: not (path / "cgroup.procs").read_text(), 60, "the group to be empty")
        path.rmdir()


@pytest.fixture
def start(start_worker, client, redis_url):
    """Return what starts a worker, and gives it and its client; it has ended before its group is removed."""
    started = []

    def start(*args, through):
        worker = start_worker(*args, app="support.rough", broker=redis_url, backend=redis_url, through=through)
        started.append(worker)
        return worker, client(redis_url, redis_url)

    yield start
    for worker in started:
        worker.close()


@pytest.mark.skipif(os.cpu_count() == 1, reason="one CPU is one slot in any case")
@pytest.mark.parametrize("args", [["--concurrency=auto"], []])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_cpu_quota_limits_the_slots(group, start, args, pool):
    through = group("cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"})
    _, app = start("-P", pool, *args, through=through)
    (stats,) = app.control.inspect(timeout=30, limit=1).stats().values()
    assert stats["pool"]["max-concurrency"] == 1


@pytest.mark.parametrize(("size", "share"), [(["-c", "1"], 200_000), (["--autoscale=3,1"], 100_000)])
def test_a_memory_limit_is_shared_by_the_children(group, start, size, share):
    # Each child gets an equal share, and so does the worker.
    through = group("memory", {"memory.limit_in_bytes": "409600000"})
    worker, app = start(*size, "--max-memory-per-child=auto", through=through)
    first = app.send_task("rough.grabs", (share // 900,)).get(timeout=60)
    assert app.send_task("rough.grabs", (1,)).get(timeout=60) != first
    found = worker.wait_line(r"exceeding memory limit \(\d+KiB / (\d+)KiB\)")
    # Measured in whole MiB.
    assert share - 1024 <= int(found[1]) <= share
