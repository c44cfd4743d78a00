"""The limits of a container: trees of files as both versions of control groups show them."""

from __future__ import annotations

import os

import pytest

from framework.worker.autoscaler import cgroup, system_load

MIB = 1024 * 1024
V1 = "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n"


@pytest.fixture
def tree(tmp_path):
    """Return what writes files below a root, and the two paths that the functions take."""

    def write(membership, files):
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        if membership is not None:
            (tmp_path / "membership").write_text(membership)
        return tmp_path / "root", tmp_path / "membership"

    return write


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/a/b\n", {"a/cpu.max": "10000 100000", "a/b/cpu.max": "50000 100000"}, 0.1),
        # The path on the host, where the container has mounted its own group as the root.
        ("0::/kubepods/pod1/c1\n", {"cpu.max": "300000 100000"}, 3.0),
        ("0::/../../other\n", {"cpu.max": "300000 100000"}, 3.0),
        # Another group is not ours.
        ("0::/a\n", {"b/cpu.max": "10000 100000"}, None),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "250000", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, 2.5),
        (V1, {"cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "5000", "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "10000"},
         0.5),
        (V1, {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 2.5),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "-1", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, None),
        (V1, {"cpu/docker/cpu.cfs_quota_us": "100000", "cpu/docker/cpu.cfs_period_us": "100000",
              "cpu/docker/abc/cpu.cfs_quota_us": "-1", "cpu/docker/abc/cpu.cfs_period_us": "100000"}, 1.0),
        ("3:cpu:/\n0::/a\n", {"unified/a/cpu.max": "100000 100000"}, 1.0),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "100000"}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("0::/\n", {"cpu.max": ""}, None),
        (None, {"cpu.max": "100000 100000"}, 1.0),
        (None, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1.0),
        ("0::/\n", {}, None),
        (None, {}, None),
    ],
)  # fmt: skip
def test_the_tightest_quota_counts(tree, membership, files, quota):
    assert cgroup.cpu_quota(*tree(membership, files)) == quota


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1000 100000", 1), ("100000 100000", 1), ("150000 100000", 2), ("200001 100000", 3), ("1600000 100000", 4),
     ("max 100000", 4)],
)  # fmt: skip
def test_a_quota_is_rounded_up(tree, monkeypatch, text, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)
    assert system_load.cpus(*tree("0::/\n", {"cpu.max": text})) == expected


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"memory.max": 1024 * MIB, "memory.current": 600 * MIB,
                    "memory.stat": f"anon 5\ninactive_file {100 * MIB}"}, (524, 1024)),
        ("0::/a/b\n", {"a/memory.max": 512 * MIB, "a/memory.current": 12 * MIB, "a/b/memory.max": "max",
                       "a/memory.stat": "anon 5"}, (500, 512)),
        (V1, {"memory/docker/abc/memory.limit_in_bytes": 256 * MIB, "memory/docker/abc/memory.usage_in_bytes": 96 * MIB,
              "memory/docker/abc/memory.stat": f"inactive_file 1\ntotal_inactive_file {32 * MIB}"}, (192, 256)),
        (V1, {"memory/memory.limit_in_bytes": 256 * MIB}, (256, 256)),
        (V1, {"memory/docker/abc/memory.limit_in_bytes": 9223372036854771712}, (4096, 8192)),
        ("0::/\n", {"memory.max": "max"}, (4096, 8192)),
        (None, {}, (4096, 8192)),
    ],
)  # fmt: skip
def test_the_tightest_memory_limit_counts(tree, tmp_path, membership, files, expected):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    found = system_load.measure(meminfo, *tree(membership, files))
    assert (found.memory_free, found.memory_total) == expected
