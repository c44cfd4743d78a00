"""Remote control, seen from the client: send a command to workers, collect what they answer.

1. `Control.broadcast` sends a request and, if wanted, collects replies (see `framework.wire.control_request`); the
   other methods of `Control` are named after the commands that they send.
2. `Control.inspect` returns an `Inspect`, which asks for what workers know.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from framework.client.control.inspect import Inspect
from framework.client.routing import select_queues
from framework.wire.control_request import Broadcast, Replies

if TYPE_CHECKING:
    from framework.client.app import App


class Control:
    """Remote control of the workers of one `App`'s broker. Any thread may call; calls take turns."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()

    def broadcast(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        reply: bool = False,
        timeout: float = 1.0,
        limit: int | None = None,
        callback: Callable[[dict[str, Any]], object] | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra: Any,
    ) -> Replies | None:
        """Send `command` to all workers, to those named in `destination`, or to those whose name matches `pattern`.

        Returns None without `reply`, else a list of ``{node: reply}``: when `limit` replies have come (default: the
        number of destinations), when everybody known to be there has answered, or when none has come for `timeout`
        seconds. Its attribute `missing` names workers that did not answer. Raises `ValueError` for a `destination` that
        is no list or tuple, `ConnectionLost` when the broker is away.
        """
        if destination is not None and not isinstance(destination, (list, tuple)):
            raise ValueError(f"destination must be a list or tuple of node names, and is {destination!r}")
        settings = self._app.conf.settings
        request = Broadcast(
            command,
            {**(arguments or {}), **extra},
            exchange=f"{settings.control.exchange}.pidbox",
            destination=destination,
            pattern=pattern,
            matcher=matcher,
        )
        with self._lock:
            mailbox = self._app.transport.mailbox()
            try:
                if not reply:
                    request.send(mailbox)
                    return None
                return request.ask(
                    mailbox,
                    timeout=timeout,
                    limit=limit,
                    accept=settings.accept_content,
                    control=settings.control,
                    callback=callback,
                )
            finally:
                mailbox.close()

    def ping(self, destination: Sequence[str] | None = None, timeout: float = 1.0, **options: Any) -> Replies:
        """Ask who is there; return ``[{node: {"ok": "pong"}}]``."""
        return self.broadcast("ping", reply=True, destination=destination, timeout=timeout, **options) or Replies()

    def revoke(
        self,
        task_id: str | Sequence[str],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | int | None = None,
        **options: Any,
    ) -> Replies | None:
        """Have workers skip the task with this id, or the tasks with these; with `terminate`, end those that run.

        `signal` is what a process is sent that runs one, by name or number; None: TERM.
        """
        ids = task_id if isinstance(task_id, str) else list(task_id)
        arguments = {"task_id": ids, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke", arguments, destination=destination, **options)

    def terminate(
        self,
        task_id: str | Sequence[str],
        destination: Sequence[str] | None = None,
        signal: str | int | None = None,
        **options: Any,
    ) -> Replies | None:
        """Revoke the task with this id, or the tasks with these, and end those that run."""
        return self.revoke(task_id, destination=destination, terminate=True, signal=signal, **options)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Sequence[str] | None = None,
        **options: Any,
    ) -> Replies | None:
        """Limit how long tasks called `task_name` may run, in seconds, from their next start on; None: no limit."""
        arguments = {"task_name": task_name, "soft": soft, "hard": hard}
        return self.broadcast("time_limit", arguments, destination=destination, **options)

    def pool_grow(self, n: int = 1, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Have pools run `n` more tasks at a time."""
        return self.broadcast("pool_grow", {"n": n}, destination=destination, **options)

    def pool_shrink(self, n: int = 1, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Have pools run `n` fewer tasks at a time; tasks that run go on to their end."""
        return self.broadcast("pool_shrink", {"n": n}, destination=destination, **options)

    def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: str | None = None,
        destination: Sequence[str] | None = None,
        **options: Any,
    ) -> Replies | None:
        """Have workers import `modules` (with `reload`, anew) and replace every slot of their pools after its task.

        Modules are those with tasks, where none are named. `reloader` is the dotted path of a function that reloads a
        module. Workers must allow it: `pool_restarts` under ``[worker]``.
        """
        arguments = {"modules": None if modules is None else list(modules), "reload": reload, "reloader": reloader}
        return self.broadcast("pool_restart", arguments, destination=destination, **options)

    def unrevoke(
        self, task_id: str | Sequence[str], destination: Sequence[str] | None = None, **options: Any
    ) -> Replies | None:
        """Let the task with this id, or the tasks with these, run again.

        Those whose message a worker has come across meanwhile have ended.
        """
        ids = task_id if isinstance(task_id, str) else list(task_id)
        return self.broadcast("unrevoke", {"task_id": ids}, destination=destination, **options)

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str = "SIGTERM",
        **options: Any,
    ) -> Replies | None:
        """Have workers skip tasks that are stamped with one of these values under its header, until they stop."""
        arguments = {"headers": headers, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke_by_stamped_headers", arguments, destination=destination, **options)

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str | None = "direct",
        routing_key: str | None = None,
        options: dict[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        **others: Any,
    ) -> Replies | None:
        """Have workers consume from `queue` too, until they stop.

        A queue that their settings define is taken as defined there. Else `exchange` and `routing_key` default to the
        queue's name, and `options` are the other keys of a queue's table (``durable``, ``queue_arguments`` …).
        `others` are the arguments of `broadcast`.
        """
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast("add_consumer", arguments, destination=destination, **others)

    def cancel_consumer(self, queue: str, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Have workers consume from `queue` no longer. What they have received still runs."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination=destination, **options)

    def rate_limit(
        self, task_name: str, rate_limit: str | float | None, destination: Sequence[str] | None = None, **options: Any
    ) -> Replies | None:
        """Limit how often tasks called `task_name` start on each worker: ``10/s``, ``200/m``, ``1000/h``; 0: no limit.

        Until the workers stop. A limit that is the cluster's (`rate_limit_scope`) stays that.
        """
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", arguments, destination=destination, **options)

    def autoscale(
        self,
        max: int | None = None,  # noqa: A002 - the guide's names
        min: int | None = None,  # noqa: A002
        destination: Sequence[str] | None = None,
        **options: Any,
    ) -> Replies | None:
        """Have workers that were started with ``--autoscale`` keep their pool between `min` and `max` slots.

        None: as it is.
        """
        return self.broadcast("autoscale", {"max": max, "min": min}, destination=destination, **options)

    def quiet(self, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Have workers take in no more tasks; what runs goes on, what waits goes back to its queue."""
        return self.broadcast("quiet", destination=destination, **options)

    def resume(self, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Have quiet workers take in tasks again."""
        return self.broadcast("resume", destination=destination, **options)

    def enable_events(self, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Have workers send task events."""
        return self.broadcast("enable_events", destination=destination, **options)

    def disable_events(self, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Have workers send no task events."""
        return self.broadcast("disable_events", destination=destination, **options)

    def heartbeat(self, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Have workers send a heartbeat event now."""
        return self.broadcast("heartbeat", destination=destination, **options)

    def election(self, id: str, topic: str, action: Any = None, **options: Any) -> Replies | None:  # noqa: A002
        """Have Celery's workers elect one of theirs to do `action`; ours take no part."""
        return self.broadcast("election", {"id": id, "topic": topic, "action": action}, **options)

    def purge(self) -> int:
        """Drop what waits in the queues that workers with these settings consume from; return how much that was."""
        queues = select_queues(self._app.conf.settings, None, None)
        return sum(self._app.transport.purge(queue) for queue in queues)

    def shutdown(self, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Have workers stop warmly."""
        return self.broadcast("shutdown", destination=destination, **options)

    def inspect(
        self,
        destination: str | Sequence[str] | None = None,
        timeout: float = 1.0,
        callback: Callable[[dict[str, Any]], object] | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> Inspect:
        """Return an `Inspect` for all workers, those listed, or the one named."""
        return Inspect(self, destination, timeout, callback, limit, pattern, matcher)
