"""One worker of `support.bounded` on a pool, steered by remote control; shared by the tests of a module.

1. `running` starts it, with a directory of the test's on its path: modules written there can be imported remotely.
2. `PoolFleet.begin` sends a task and waits until it runs; `tell` and `ask` steer and inspect.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from support import ledger, proj, workers
from support.wait import wait_for

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet", "asyncio"]
NODE = "w@here"


class PoolFleet:
    """The worker and a client."""

    def __init__(self, app: Any, worker: workers.WorkerProcess, directory: Path, pool: str, slots: int) -> None:
        self.app = app
        self.worker = worker
        self.directory = directory
        self.pool = pool
        self.slots = slots
        self.book = directory / "ledger"
        self._gates = itertools.count()

    def tell(self, command: str, **arguments: Any) -> Any:
        """Send a control command and return the reply."""
        replies = self.app.control.broadcast(command, arguments, reply=True, timeout=15, limit=1)
        assert replies, f"no reply to {command}; {self.worker.output[-2000:]}"
        return replies[0][NODE]

    def ask(self, command: str, *args: Any) -> Any:
        """Ask the worker something."""
        return getattr(self.app.control.inspect(timeout=15, limit=1), command)(*args)[NODE]

    def native(self, name: str) -> str:
        """Return the task `name`, or its coroutine where the pool is for these."""
        return f"bounded.a{name}" if self.pool == "asyncio" else f"bounded.{name}"

    def begin(self, task: str, *args: Any, **options: Any) -> Any:
        """Send the task, with its id as the last argument, and wait until it runs."""
        result = self.send(task, *args, **options)
        self.started(result)
        return result

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        """Send the task, with its id as the last argument."""
        task_id = str(uuid4())
        return self.app.send_task(task, (*args, task_id), task_id=task_id, **options)

    def runs(self, result: Any) -> int:
        """Return how often the task of `result` has begun."""
        return ledger.read(self.book)[f"start:{result.id}"]

    def started(self, result: Any, count: int = 1) -> None:
        wait_for(lambda: self.runs(result) >= count, 20, lambda: f"the task to run: {self.worker.output[-3000:]}")

    @contextlib.contextmanager
    def holding(self, count: int | None = None, running: int | None = None) -> Iterator[list[Any]]:
        """Send `count` tasks (default: one a slot) that run until the block ends; enter when `running` (all) do."""
        path = self.directory / f"gate-{next(self._gates)}"
        held = [self.send(self.native("gate"), str(path)) for _ in range(self.slots if count is None else count)]
        try:
            wait_for(
                lambda: sum(map(self.runs, held)) >= (len(held) if running is None else running),
                20,
                lambda: f"the tasks to run: {self.worker.output[-3000:]}",
            )
            yield held
        finally:
            path.touch()
            for result in held:
                result.get(timeout=20)

    def write(self, module: str, source: str) -> None:
        """Write a module that the worker can import."""
        (self.directory / f"{module}.py").write_text(source)

    def pids(self) -> set[int]:
        """Return the ids of the pool's processes or threads."""
        return set(self.ask("stats")["pool"]["processes"])


@contextlib.contextmanager
def running(
    request: Any,
    broker: str,
    pool: str,
    directory: Path,
    *options: str,
    concurrency: int = 2,
    app: str = "support.bounded",
    **conf: Any,
) -> Iterator[PoolFleet]:
    """Run a worker of the application `app` on `pool`."""
    if broker == "sqlite":
        url = f"sqlite:///{directory}/broker.db"
    else:
        url = request.getfixturevalue({"redis": "redis_server", "amqp": "rabbit_server"}[broker]).fresh_url()
    results = "rpc://" if broker == "amqp" else url
    env = workers.app_environment(broker=url, backend=results, ledger=directory / "ledger", conf=json.dumps(conf))
    # A module that is written twice in a second would be loaded from its cached code.
    env |= {"PYTHONPATH": f"{workers.APP_DIR.parent}:{directory}", "PYTHONDONTWRITEBYTECODE": "1"}
    worker = workers.start_worker(None, "-P", pool, "-c", str(concurrency), "-n", NODE, *options, app=app, env=env)
    slots = 1 if pool == "solo" else concurrency
    with worker, contextlib.closing(proj.make_app(url, results)) as client:
        worker.wait_ready()
        yield PoolFleet(client, worker, directory, pool, slots)
