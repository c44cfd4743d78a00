"""One worker of ours that is steered while it runs, shared by the tests of a module.

1. `steering` starts it with `support.steered` (or another application), results in a file of their own.
2. `Steered.tell` and `ask` use Celery's own client on Redis and RabbitMQ, ours on SQLite; `ours` is always ours.
3. `Steered.holding` has tasks run until the block ends.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from support import celeryproj, ledger, steered, workers
from support.wait import wait_for

POOLS = ["prefork", "threads", "gevent", "eventlet", "asyncio", "solo"]
GREEN = {"gevent", "eventlet"}
NODE = "w@here"
LONG = 20.0


class Steered:
    """The worker, a client, and what they have in common."""

    def __init__(self, worker: workers.WorkerProcess, url: str, directory: Path, pool: str, ours: Any, theirs: Any):
        self.worker = worker
        self.url = url
        self.directory = directory
        self.book = directory / "ledger"
        self.pool = pool
        self.slots = 1 if pool == "solo" else 2
        self.ours = ours
        self.client = theirs or ours

    # ------------------------------------------------------------ remote control

    def tell(self, command: str, *args: Any, **kwargs: Any) -> Any:
        """Send a command by its client method and return the worker's reply."""
        method = getattr(self.client.control, command)
        [reply] = method(*args, **kwargs, destination=[NODE], reply=True, timeout=LONG, limit=1)
        return reply[NODE]

    def ask(self, command: str, *args: Any) -> Any:
        """Return what the worker answers."""
        return getattr(self.client.control.inspect([NODE], timeout=LONG, limit=1), command)(*args)[NODE]

    def info(self) -> dict[str, Any]:
        """Return the pool's part of the worker's statistics."""
        return dict(self.ask("stats")["pool"])

    # ------------------------------------------------------------ tasks

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        """Send a task with our client and return its result."""
        return self.ours.tasks[task].apply_async(args, **options)

    def wrote(self, entry: str, count: int = 1, timeout: float = LONG) -> None:
        """Wait until the ledger has `entry` `count` times."""
        wait_for(
            lambda: ledger.read(self.book)[entry] >= count,
            timeout,
            lambda: f"{entry} in {ledger.lines(self.book)[-10:]}; the worker: {self.worker.output[-3000:]}",
        )

    @property
    def hold(self) -> str:
        """The task to hold a slot with."""
        return "steered.ahold" if self.pool == "asyncio" else "steered.hold"

    @contextlib.contextmanager
    def holding(self, count: int = 1, task: str | None = None, **options: Any) -> Iterator[list[Any]]:
        """Have `count` tasks run, and end when the block does; enter when they run."""
        gate = self.directory / uuid4().hex
        entries = [uuid4().hex for _ in range(count)]
        results = [self.send(task or self.hold, str(gate), entry, **options) for entry in entries]
        for entry in entries:
            self.wrote(f"start:{entry}")
        try:
            yield results
        finally:
            gate.touch()
            for result in results:
                result.get(timeout=LONG, propagate=False)

    def free(self) -> None:
        """Fail unless every slot works."""
        for number in range(2 * self.slots):
            assert self.send("proj.add", number, 1).get(timeout=LONG) == number + 1


def ends(result: Any) -> BaseException:
    """Wait for a task's end and return what it raised."""
    try:
        value = result.get(timeout=LONG)
    except Exception as error:  # noqa: BLE001 - what a task raises may be anything
        return error
    raise AssertionError(f"the task returned {value!r}")


@contextlib.contextmanager
def steering(
    request: Any,
    broker: str,
    directory: Path,
    pool: str,
    *flags: str,
    conf: dict[str, Any] | None = None,
    app: str = "support.steered",
    app_dir: Path | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[Steered]:
    """Run the worker with `pool` on `broker`."""
    if broker == "sqlite":
        url = f"sqlite:///{directory}/broker.db"
    else:
        url = request.getfixturevalue({"redis": "redis_server", "amqp": "rabbit_server"}[broker]).fresh_url()
    results = f"sqlite:///{directory}/results.db"
    variables = workers.app_environment(
        broker=url, backend=results, ledger=directory / "ledger", conf=json.dumps(conf or {})
    )
    ours = steered.app
    ours.close()
    ours.conf.update(broker_url=url, result_backend=results)
    with contextlib.ExitStack() as stack:
        theirs = stack.enter_context(celeryproj.closing(celeryproj.make_app(url))) if broker != "sqlite" else None
        stack.callback(ours.close)
        worker = stack.enter_context(
            workers.start_worker(
                app_dir,
                *("-P", pool, "-c", "2", "-n", NODE, *flags),
                app=app,
                env=variables | (env or {}),
                log=directory / "worker.log",
            )
        )
        worker.wait_ready()
        yield Steered(worker, url, directory, pool, ours, theirs)
