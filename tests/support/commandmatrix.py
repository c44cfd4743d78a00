"""Every command in every place: observed on a worker whose slots are all busy, and written into docs/steering.md.

1. `COMMANDS` are requests that make sense anywhere, in an order in which each leaves the worker as the next wants it.
2. `observe` sends them all and says of each whether it was done, refused or not answered.
"""

from __future__ import annotations

from typing import Any

from support.doctable import DocTable
from support.poolfleet import NODE, POOLS, PoolFleet

TABLE = DocTable("steering.md", "commands")
#: Where a command is tried: broker and pool, by the title of the column.
PLACES = {
    **{f"{pool}": ("redis", pool) for pool in POOLS},
    "RabbitMQ, prefork": ("amqp", "prefork"),
    "SQLite, prefork": ("sqlite", "prefork"),
}
CONF = {"worker_pool_restarts": True, "worker_prefetch_multiplier": 4}
COMMANDS: dict[str, dict[str, Any]] = {
    "ping": {},
    "active": {},
    "reserved": {},
    "scheduled": {},
    "revoked": {},
    "registered": {},
    "query_task": {"ids": ["nowhere"]},
    "active_queues": {},
    "stats": {},
    "conf": {},
    "report": {},
    "clock": {},
    "memsample": {},
    "memdump": {},
    "hello": {"from_node": "other@here", "revoked": []},
    "revoke": {"task_id": "nowhere"},
    "unrevoke": {"task_id": "nowhere"},
    "terminate": {"task_id": "nowhere", "signal": "TERM"},
    "revoke_by_stamped_headers": {"headers": {"stamp": ["nowhere"]}},
    "rate_limit": {"task_name": "bounded.wait", "rate_limit": "100/s"},
    "time_limit": {"task_name": "bounded.wait", "soft": 100, "hard": 200},
    "add_consumer": {"queue": "extra"},
    "cancel_consumer": {"queue": "extra"},
    "pool_grow": {"n": 1},
    "pool_shrink": {"n": 1},
    "pool_restart": {"modules": ["json"]},
    "enable_events": {},
    "disable_events": {},
    "heartbeat": {},
    "election": {"id": "1", "topic": "nothing"},
    "quiet": {},
    "resume": {},
}


def observe(fleet: PoolFleet) -> dict[str, str]:
    """Send every command while every slot is busy."""
    with fleet.holding():
        return {name: _outcome(fleet, name, arguments) for name, arguments in COMMANDS.items()}


def _outcome(fleet: PoolFleet, command: str, arguments: dict[str, Any]) -> str:
    replies = fleet.app.control.broadcast(command, arguments, reply=True, timeout=15, limit=1)
    if not replies:
        return "no answer"
    answer = replies[0][NODE]
    return "refused" if isinstance(answer, dict) and "error" in answer else "yes"


def told(place: str) -> dict[str, str]:
    """Return what the page says of `place`."""
    return {name: cells[place] for name, cells in TABLE.read().items() if place in cells}


def tell(place: str, observed: dict[str, str]) -> None:
    """Write what was observed in `place` into the page."""
    rows = TABLE.read()
    TABLE.write(
        "command", list(PLACES), {name: rows.get(name, {}) | {place: outcome} for name, outcome in observed.items()}
    )
