"""What each pool does when it is limited and steered: observed on a running worker, and written into docs/pools.md.

1. `observe` tries every column of the table on one worker and says in words what happened.
2. `told` reads what docs/pools.md says of a pool, `tell` writes it there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from framework.exceptions import TaskRevokedError, TimeLimitExceeded
from support.doctable import DocTable
from support.poolfleet import POOLS, PoolFleet
from support.wait import wait_for

TABLE = DocTable("pools.md", "matrix")
CONF = {"worker_pool_restarts": True, "worker_prefetch_multiplier": 4}


def soft(fleet: PoolFleet) -> str:
    told = fleet.send(fleet.native("tidy"), 60, soft_time_limit=0.2).get(timeout=30)
    return "raised in the task" if told == "tidied up" else repr(told)


def ended(fleet: PoolFleet, error: type[Exception], end: Callable[[Any], object], **options: Any) -> str:
    """Say what becomes of a task and its slot when it is ended from outside."""
    before = fleet.pids()
    result = fleet.begin(fleet.native("gate"), str(fleet.directory / "never"), **options)
    end(result)
    try:
        result.get(timeout=30)
    except error:
        pass
    else:
        return "ignored"
    if fleet.pool != "prefork":
        return "the task is interrupted"
    wait_for(lambda: fleet.pids() != before and len(fleet.pids()) == fleet.slots, 30, "another process")
    return "the process is replaced"


def hard(fleet: PoolFleet) -> str:
    return ended(fleet, TimeLimitExceeded, lambda result: None, time_limit=0.2)


def terminate(fleet: PoolFleet) -> str:
    return ended(fleet, TaskRevokedError, lambda result: fleet.tell("terminate", task_id=result.id, signal=None))


def resized(fleet: PoolFleet, command: str, change: int) -> str:
    reply = fleet.tell(command, n=1)
    if "error" in reply:
        return "refused"
    fleet.slots += change
    with fleet.holding(fleet.slots + 1 if change < 0 else fleet.slots, fleet.slots):
        return f"{len(fleet.ask('active'))} at a time"


def grow(fleet: PoolFleet) -> str:
    return resized(fleet, "pool_grow", 1)


def shrink(fleet: PoolFleet) -> str:
    return resized(fleet, "pool_shrink", -1)


MODULE = """
from framework import shared_task

@shared_task(name="matrix.value")
def value():
    return {}
"""


def restart(fleet: PoolFleet) -> str:
    before = fleet.pids()
    fleet.write("matrix_tasks", MODULE.format(1))
    fleet.tell("pool_restart", modules=["matrix_tasks"])
    first = fleet.app.send_task("matrix.value").get(timeout=30)
    fleet.write("matrix_tasks", MODULE.format(2))
    with fleet.holding(1) as held:
        assert fleet.tell("pool_restart", modules=["matrix_tasks"], reload=True) == {"ok": "reload started"}
    assert [result.state for result in held] == ["SUCCESS"]
    wait_for(lambda: fleet.app.send_task("matrix.value").get(timeout=30) == 2, 30, "the new code")
    assert first == 1
    if fleet.pool == "prefork":
        wait_for(lambda: len(fleet.pids()) == fleet.slots and not before & fleet.pids(), 30, "other processes")
        return "new code, new processes"
    return "new code"


def revoke(fleet: PoolFleet) -> str:
    with fleet.holding():
        waiting = fleet.send("bounded.wait", 0)
        wait_for(lambda: [task for task in fleet.ask("reserved") if task["id"] == waiting.id], 30, "it to be received")
        fleet.tell("revoke", task_id=waiting.id)
    waiting.get(timeout=15, propagate=False)
    return "skipped" if waiting.state == "REVOKED" and fleet.runs(waiting) == 0 else waiting.state


def control(fleet: PoolFleet) -> str:
    with fleet.holding():
        # Within its own time-out.
        return "answered" if fleet.app.control.inspect(timeout=1, limit=1).ping() else "not answered"


COLUMNS: dict[str, Callable[[PoolFleet], str]] = {
    "soft limit": soft,
    "hard limit": hard,
    "terminate": terminate,
    "grow from 2": grow,
    "shrink from 3": shrink,
    "restart": restart,
    "revoke": revoke,
    "control while busy": control,
}


def observe(fleet: PoolFleet) -> dict[str, str]:
    """Try everything on the worker."""
    return {name: look(fleet) for name, look in COLUMNS.items()}


def told(pool: str) -> dict[str, str]:
    """Return what the page says of `pool`."""
    return TABLE.read().get(pool, {})


def tell(pool: str, observed: dict[str, str]) -> None:
    """Write what was observed of `pool` into the page."""
    rows = TABLE.read() | {pool: observed}
    TABLE.write("pool", list(COLUMNS), {name: rows[name] for name in POOLS if name in rows})
