"""`make chaos MINUTES=2 SEED=1 BROKER="redis amqp sqlite"`: exit code 1 when the books do not balance.

POOL, RATE (tasks a second) and FAULTS=none may be given too; KEEP=1 keeps the directory with ledger and logs.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from faults import plan, report
from faults.run import Run
from faults.scene import FAILPOINTS, Scene


def say(line: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run each broker in turn."""
    seconds = float(os.environ.get("MINUTES") or "2") * 60
    seed = int(os.environ.get("SEED") or time.time_ns() % 100_000)
    pool = os.environ.get("POOL") or "prefork"
    # One task at a time is no match for more.
    rate = float(os.environ.get("RATE") or ("8" if pool == "solo" else "20"))
    faulty = os.environ.get("FAULTS") != "none"
    good = True
    for broker in (os.environ.get("BROKER") or "redis amqp sqlite").split():
        events = plan.draw(broker, seed, seconds, rate=rate, faulty=faulty)
        say(f"{broker}, {pool}, {seconds:g} s, seed {seed}: {plan.describe(events)}")
        directory = Path(tempfile.mkdtemp(prefix=f"chaos-{broker}-"))
        failpoints = {plan.VICTIM: FAILPOINTS} if faulty else {}
        with Scene(broker, directory, pool=pool, seed=seed, failpoints=failpoints) as scene:
            outcome = Run(scene, events, tell=say).go()
        say(report.table(outcome))
        good = good and outcome.good
        if outcome.good and not os.environ.get("KEEP"):
            shutil.rmtree(directory)
        else:
            say(f"ledger and logs are in {directory}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
