"""A sending process: `python -m benchmarks.producer OPERATION TASK COUNT`; prints one line of JSON.

The system is whichever `bench_app` lies on PYTHONPATH.

1. `send`: one ordinary `delay` after the other. 2. `bulk`: all in one go. Both give seconds and CPU seconds.
3. `fairness`: task 0 takes long, the others are short.
4. `ping`: remote control's round trips, one after another, each until one worker has answered.
5. `latency`: one task at a time into an idle worker, from the call of `delay` to the first line of the task.
"""

from __future__ import annotations

import json
import random
import sys
import time

WARM_UP = 20
LATENCY_LIMIT = 20.0


def main() -> None:
    operation, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    import bench_app

    task = getattr(bench_app, name)
    if operation == "latency":
        print(json.dumps({"latencies": latencies(task, bench_app.CELLS, count)}))
        return
    if operation == "ping":
        print(json.dumps({"latencies": pings(bench_app.app, count)}))
        return
    wall, cpu = time.perf_counter(), time.process_time()
    if operation == "bulk":
        bench_app.send_all(task, count)
    elif operation == "fairness":
        bench_app.long.delay(0)
        for number in range(1, count):
            task.delay(number)
    else:
        for number in range(count):
            task.delay(number)
    print(json.dumps({"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))


def pings(app, count) -> list[float]:
    """Return milliseconds, sorted."""
    found, deadline = [], time.monotonic() + LATENCY_LIMIT
    while not app.control.ping(timeout=1, limit=1):
        if time.monotonic() > deadline:
            raise SystemExit(f"no worker has answered within {LATENCY_LIMIT:.0f} s")
    for number in range(count):
        begun = time.perf_counter()
        if not app.control.ping(timeout=LATENCY_LIMIT, limit=1):
            raise SystemExit(f"no answer to ping {number} within {LATENCY_LIMIT:.0f} s")
        found.append((time.perf_counter() - begun) * 1e3)
    return sorted(found)


def latencies(task, cells, count) -> list[float]:
    """Return milliseconds, sorted."""
    found, dice, limit = [], random.Random(1), time.monotonic() + LATENCY_LIMIT
    for number in range(count):
        begun = time.monotonic_ns()
        task.delay(number)
        while not cells.begun(number):
            # Short enough to see 0.2 ms, long enough to leave the core to the worker.
            time.sleep(0.0001)
            if time.monotonic() > limit:
                raise SystemExit(f"only {number} of {count} tasks ran within {LATENCY_LIMIT:.0f} s")
        if number >= WARM_UP:
            found.append((cells.when(number) - begun) / 1e6)
        time.sleep(dice.uniform(0.004, 0.012))
    return sorted(found)


if __name__ == "__main__":
    main()
