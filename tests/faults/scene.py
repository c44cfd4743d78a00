"""Where a run happens: a private broker, a proxy before each worker, two workers, and a client that has none.

1. `Scene` starts all of it for ``redis``, ``amqp`` or ``sqlite`` and leaves nothing behind.
2. `Actor` is one worker: its process, its proxy, and how often it was started and killed.
3. `send` sends what the plan says, and tells what may not have reached the broker.
4. `settled` says whether nothing waits, nothing is on loan and nothing runs.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from faults import work
from faults.accounts import Fault, Sent
from faults.plan import STEADY, VICTIM
from framework._boot import loader
from framework.api.transport import Queue
from framework.exceptions import FrameworkError
from framework.message import read
from support import ledger, queues, workers
from support.brokers import PrivateRabbit, PrivateRedis
from support.proxy import Proxy

#: Seconds until what a dead worker held goes to the other one.
LEASE: Final = 3.0
CONCURRENCY: Final = 4
#: What the victim does to itself.
FAILPOINTS: Final = ",".join(
    f"{point}:0.0005"
    for point in (
        "fetch.before=kill",
        "fetch.after=kill",
        "flush.after=kill",
        "dispatch.before=kill",
        "dispatch.after=kill",
        "started.before=kill",
        "started.after=kill",
        "finished.before=kill",
        "finished.after=kill",
        "store.before=kill",
        "store.after=kill",
        "fetch.before=lose",
        "store.before=lose",
        "fetch.after=dawdle",
    )
)
#: A task that retries waits for a broker that is away: with early ack nobody else could send it again.
_PATIENCE: Final = {"max_retries": 200, "interval_max": 0.2}
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "redis": {"broker_transport_options": {"lease": LEASE, "socket_timeout": 4.0}},
    # Connections that are silent are given up after two heartbeats.
    "amqp": {"broker_heartbeat": 2, "broker_transport_options": {"confirm_timeout": 5.0}},
    "sqlite": {"broker_transport_options": {"lease": LEASE, "busy_timeout": 2.0, "synchronous": "normal"}},
}


class Actor:
    """One of the workers."""

    def __init__(self, scene: Scene, name: str) -> None:
        self._scene = scene
        self.name = name
        self.proxy = None if scene.server is None else Proxy(scene.server.port)
        self.worker: workers.WorkerProcess | None = None
        self.starts = 0
        #: When it was last seen alive.
        self.seen = 0.0

    def start(self) -> workers.WorkerProcess:
        """Start its worker, which does itself harm if it is the victim of a faulty run."""
        scene = self._scene
        url = scene.url if self.proxy is None else self.proxy.through(scene.url)
        backend = scene.backend if self.proxy is None else self.proxy.through(scene.backend)
        if scene.backend.startswith("sqlite"):
            backend = scene.backend
        env = workers.app_environment(broker=url, backend=backend, ledger=scene.book, conf=json.dumps(scene.conf))
        if self.name in scene.failpoints:
            env["TEST_FAILPOINTS"] = scene.failpoints[self.name]
            env["TEST_FAILPOINTS_SEED"] = f"{scene.seed}:{self.starts}"
        self.starts += 1
        self._log = scene.directory / f"{self.name}.log"
        self._said = self._log.stat().st_size if self._log.exists() else 0
        env["TEST_WORKER"] = self.life
        if scene.coroutines:
            env["TEST_COROUTINES"] = "1"
        self.worker = workers.start_worker(
            None,
            *("-P", scene.pool, "-c", str(CONCURRENCY), "-n", f"{self.name}@here", "-l", "info"),
            app="faults.work",
            env=env,
            log=self._log,
        )
        self.seen = time.monotonic()
        return self.worker

    @property
    def life(self) -> str:
        """Its name and the number of its start, as they stand in the ledger."""
        return f"{self.name}:{self.starts}"

    @property
    def running(self) -> bool:
        return self.worker is not None and self.worker.running

    @property
    def ready(self) -> bool:
        """It runs, and has said that it is ready."""
        if not self.running:
            return False
        with self._log.open("rb") as log:
            log.seek(self._said)
            return b" ready." in log.read()

    def close(self) -> None:
        """End it at once."""
        if self.worker is not None:
            self.worker.close()
        if self.proxy is not None:
            self.proxy.close()


class Scene:
    """A context manager; everything is running inside."""

    def __init__(
        self,
        broker: str,
        directory: Path,
        *,
        pool: str = "prefork",
        seed: int = 1,
        failpoints: dict[str, str] | None = None,
        server: Any = None,
    ) -> None:
        """`failpoints`: by worker's name, see `support.failpoints`.

        `server`: one that runs already, for plans without restarts.
        """
        self.broker = broker
        self.directory = directory
        self.pool = pool
        self.seed = seed
        self.failpoints = failpoints or {}
        self.book = directory / "ledger"
        self.conf: dict[str, Any] = {"result_expires": 7200, "task_publish_retry_policy": _PATIENCE} | _OPTIONS[broker]
        self.server = server
        self._stack = contextlib.ExitStack()
        self._client: Any = None
        self._sent = 0
        #: Faults as they happened.
        self.faults: list[Fault] = []

    def __enter__(self) -> Scene:
        with self._stack:
            if self.broker != "sqlite" and self.server is None:
                self.server = PrivateRedis(persist=True) if self.broker == "redis" else PrivateRabbit()
                self._stack.callback(self.server.close)
                self.server.start()
            self.url = self.server.fresh_url() if self.server else f"sqlite:///{self.directory}/broker.db"
            # RabbitMQ keeps no results across a restart, and a file of their own makes them the run's own business.
            self.backend = self.url if self.broker != "amqp" else f"sqlite:///{self.directory}/results.db"
            self._stack.callback(self._disconnect)
            self.actors = {name: Actor(self, name) for name in (STEADY, VICTIM)}
            for actor in self.actors.values():
                self._stack.callback(actor.close)
            for actor in self.actors.values():
                actor.start().wait_ready()
            self._keep = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keep.close()

    # ------------------------------------------------------------ the client

    @property
    def client(self) -> Any:
        """An application that sends, past the proxies."""
        if self._client is None:
            self._client = work.make_app(self.url, self.backend, coroutines=self.coroutines, **self.conf)
        return self._client

    @property
    def coroutines(self) -> bool:
        """Whether some of the tasks are coroutines."""
        return self.pool == "asyncio"

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def send(self, tasks: tuple[tuple[Sent, float | None], ...]) -> list[Sent]:
        """Send `tasks`; returns them, uncertain if the broker did not say that it has them."""
        app = self.client
        # Where coroutines have a place of their own, every other task is one.
        kinds = ("", "_async") if self.coroutines else ("",)
        calls = [
            app.tasks[f"faults.{'late' if task.late else 'early'}{kinds[number % len(kinds)]}"]
            .si(task.entry, task.seconds, task.fails)
            .set(task_id=task.entry, countdown=countdown, ignore_result=not task.keeps_result)
            for number, (task, countdown) in enumerate(tasks, self._sent)
        ]
        self._sent += len(tasks)
        try:
            app.send_many(calls, retry=False)
        except FrameworkError:
            self._disconnect()
            return [task._replace(certain=False) for task, _ in tasks]
        return [task for task, _ in tasks]

    # ------------------------------------------------------------ the end

    def settled(self) -> bool:
        """Say whether the broker has nothing to give, has lent nothing, and both workers are idle.

        A task may go from place to place between two questions: the answers of two rounds count, if meanwhile nothing
        was written into the ledger.
        """
        size = ledger.size(self.book)
        return self._looks_settled() and self._looks_settled() and ledger.size(self.book) == size

    def _looks_settled(self) -> bool:
        if not all(actor.running for actor in self.actors.values()) or unfinished(self):
            return False
        inspect = self.client.control.inspect(timeout=5, limit=2)
        for question in ("active", "reserved", "scheduled"):
            answers = getattr(inspect, question)() or {}
            if len(answers) < len(self.actors) or any(answers.values()):
                return False
        return not (self.broker == "amqp" and self._on_loan())

    def _on_loan(self) -> int:
        """Return how many messages RabbitMQ has given out, of all queues of this run."""
        vhost = self.url.rpartition("/")[2]
        return sum(
            map(
                int,
                self.server.ctl("list_queues", "--no-table-headers", "-p", vhost, "messages_unacknowledged").split(),
            )
        )

    def left(self) -> set[str]:
        """Return the ids of the tasks that lie in the queue, or are parked there where the broker can show it."""
        queue = Queue(name="celery")
        with contextlib.closing(loader.make_transport(self.client.conf.settings)) as transport:
            found = [*(transport.peek(queue, 1000) or ()), *(transport.peek(queue, 1000, parked=True) or ())]
        return {str(read(peeked.payload).headers["id"]) for peeked in found}

    def letters(self) -> list[dict[str, Any]]:
        """Return the dead letters."""
        done = workers.run_command(
            *("-A", "faults.work", "dlq", "list", "--json"),
            env=workers.app_environment(broker=self.url, conf=json.dumps(self.conf)),
        )
        if done.returncode:
            raise AssertionError(f"framework dlq list: {done.stderr}")
        return list(json.loads(done.stdout))


def unfinished(scene: Scene) -> int:
    """Return how many messages of the queue wait or, where the broker tells, are on loan."""
    waiting = queues.waiting(scene.url)
    if scene.broker == "redis":
        with scene.server.client(int(scene.url.rpartition("/")[2])) as client:
            return waiting + sum(client.hlen(key) for key in client.scan_iter("framework.lease.*"))
    if scene.broker == "sqlite":
        with contextlib.closing(sqlite3.connect(scene.directory / "broker.db", timeout=20)) as file:
            query = (
                "SELECT count(*) FROM framework_messages JOIN framework_queues ON framework_queues.id = queue "
                "WHERE name = 'celery'"
            )
            return int(file.execute(query).fetchone()[0])
    return waiting
