"""A few workers of ours on one broker, shared by the tests of a module, and the clients that steer them.

1. `running` starts them together and stops them after the module.
2. `Fleet.tell` and `Fleet.ask` use Celery's own client where it can reach the broker, else ours; `ours` is always ours.
3. `Fleet.cut` closes every connection to the broker, which the broker survives.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from support import celeryproj, ledger, proj, workers
from support.brokers import PrivateRabbit, PrivateRedis
from support.wait import wait_for

#: Far beyond what an answer takes; a wait ends with the last worker that is asked.
LONG = 20.0


class Fleet:
    """Workers by node name, and clients."""

    def __init__(self, url: str, book: Path, server: Any, theirs: Any, ours: Any) -> None:
        self.url = url
        self.book = book
        self.workers: dict[str, workers.WorkerProcess] = {}
        self._server = server
        self.ours = ours
        self.client = theirs or ours

    @property
    def nodes(self) -> list[str]:
        return list(self.workers)

    def tell(self, command: str, *args: Any, to: Sequence[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        """Send a control command by its client method and return the replies by node."""
        wanted = list(to) if to is not None else self.nodes
        replies = getattr(self.client.control, command)(
            *args, **kwargs, destination=wanted, reply=True, timeout=LONG, limit=len(wanted)
        )
        return {node: reply for one in replies for node, reply in one.items()}

    def broadcast(self, command: str, arguments: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """Send any command with the client's `broadcast` and return the replies by node."""
        replies = self.client.control.broadcast(
            command, arguments or {}, reply=True, timeout=LONG, limit=len(self.nodes), **options
        )
        return {node: reply for one in replies for node, reply in one.items()}

    def ask(self, command: str, *args: Any, to: Sequence[str] | None = None) -> dict[str, Any]:
        """Ask with the client's `inspect` and return the answers by node."""
        wanted = list(to) if to is not None else self.nodes
        inspect = self.client.control.inspect(wanted, timeout=LONG, limit=len(wanted))
        return dict(getattr(inspect, command)(*args) or {})

    def run(self, *args: str) -> Any:
        """Run a command line of ours against this broker."""
        return workers.run_command("-A", "proj", *args, env=workers.app_environment(broker=self.url))

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        """Send a sample task with our client and return its result."""
        return self.ours.tasks[task].apply_async(args, **options)

    def ran(self, entry: object, count: int = 1, timeout: float = 10) -> None:
        """Wait until the ledger has `entry` `count` times."""
        wait_for(
            lambda: ledger.read(self.book)[str(entry)] >= count,
            timeout,
            lambda: f"{entry} in {ledger.lines(self.book)[-10:]}; {[w.output[-1500:] for w in self.workers.values()]}",
        )

    def cut(self, *, noticed: bool = True) -> None:
        """Close all connections of the workers, and wait until they are `noticed` to be lost and are back."""
        before = {node: len(worker.lines("Connection to broker lost")) for node, worker in self.workers.items()}
        if isinstance(self._server, PrivateRabbit):
            self._server.ctl("close_all_connections", "--vhost", urlsplit(self.url).path[1:], "cut by a test")
        elif isinstance(self._server, PrivateRedis):
            number = urlsplit(self.url).path[1:]
            with self._server.client() as server:
                for one in server.client_list():
                    if one["db"] == number:
                        server.client_kill_filter(_id=one["id"])
        else:
            raise AssertionError("a file has no connections to cut")
        # Celery's pool of connections, which all its clients share, does not expect that.
        self.client = self.ours
        for node, worker in self.workers.items() if noticed else ():
            worker.wait_line("Connection to broker lost", count=before[node] + 1)
            worker.wait_line("Connected to ", count=before[node] + 2)


@contextlib.contextmanager
def running(
    request: Any,
    broker: str,
    directory: Path,
    *options: Sequence[str],
    names: Sequence[str] = ("one", "two"),
    conf: dict[str, Any] | None = None,
    make: Callable[..., Any] = proj.make_app,
    app: str = "proj",
    backend: str | None = None,
) -> Iterator[Fleet]:
    """Run a worker for each of `names` (node ``<name>@here``) with its command line `options`, on `broker`."""
    server = None
    if broker == "sqlite":
        url = f"sqlite:///{directory}/broker.db"
    else:
        server = request.getfixturevalue({"redis": "redis_server", "amqp": "rabbit_server"}[broker])
        url = server.fresh_url()
    backend = backend or (url if broker != "amqp" else None)
    book = directory / "ledger"
    env = workers.app_environment(broker=url, backend=backend, ledger=book, conf=json.dumps(conf) if conf else None)
    with contextlib.ExitStack() as stack:
        theirs = stack.enter_context(celeryproj.closing(celeryproj.make_app(url))) if broker != "sqlite" else None
        ours = stack.enter_context(contextlib.closing(make(url, backend)))
        fleet = Fleet(url, book, server, theirs, ours)
        for number, name in enumerate(names):
            own = options[number] if number < len(options) else ()
            log = directory / f"{name}.log"
            worker = stack.enter_context(
                workers.start_worker(None, "-n", f"{name}@here", *own, app=app, env=env, log=log)
            )
            fleet.workers[f"{name}@here"] = worker
        for worker in fleet.workers.values():
            worker.wait_ready()
        yield fleet
