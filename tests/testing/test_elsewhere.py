"""Tests that run in another interpreter, between others that run in this one."""

from __future__ import annotations

import subprocess
import sys

SUITE = """
from framework.testing.pools import PoolSuite

class TestGreen(PoolSuite):
    pool = "gevent"
"""


def test_the_tests_before_and_after_do_not_notice(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"test_{folder}.py").write_text("def test_here():\n    pass\n")
    (tmp_path / "one" / "test_green.py").write_text(SUITE)
    names = ["one/test_one.py", "one/test_green.py::TestGreen::test_a_job_begins_before_it_ends", "two/test_two.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
