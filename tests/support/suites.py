"""Runs conformance suites in a pytest of their own and says what each test came to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

from support import workers

ROOT = Path(__file__).resolve().parents[2]


def run_all(groups: Sequence[Iterable[str]], directory: Path) -> dict[str, str]:
    """Do the same for several groups of tests, all of them at once."""
    places = [directory / str(number) for number in range(len(groups))]
    for place in places:
        place.mkdir()
    with ThreadPoolExecutor(len(groups)) as threads:
        found = threads.map(run, groups, places)
        return {name: result for results in found for name, result in results.items()}


def run(tests: Iterable[str], directory: Path, timeout: float = 280) -> dict[str, str]:
    """Run `tests` (node ids) and return what became of each: "passed", "skipped", else why it failed.

    By ``Class::test``.
    """
    report = directory / "report.xml"
    arguments = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"--basetemp={directory / 'own'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, *tests],
        cwd=ROOT,
        env=workers.environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failures = [each.get("message", "") + (each.text or "") for each in case if each.tag in ("failure", "error")]
        skipped = case.find("skipped") is not None
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        found[name] = "\n".join(failures) or ("skipped" if skipped else "passed")
    return found
