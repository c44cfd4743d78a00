"""Remote control: sends commands to workers and collects their replies.

1. `Control.broadcast` sends a request and, with `reply`, collects replies (see `framework.wire.control_request`); the
   other methods of `Control` have the names of their commands.
2. `Control.inspect` returns an `Inspect`, which queries workers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from framework.client.control.inspect import Inspect
from framework.client.routing import select_queues
from framework.wire.control_request import Replies, SentCommand

if TYPE_CHECKING:
    from framework.client.app import App


class Control:
    """Remote control of the workers of one `App`'s broker. Thread-safe; calls run one at a time."""

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

        Returns None without `reply`, else a list of ``{node: reply}``: when `limit` replies have arrived (default: the
        number of destinations), when all known workers have answered, or when no reply has arrived for `timeout`
        seconds. Its attribute `missing` names workers that did not answer. Raises `ValueError` for a `destination` that
        is not a list or tuple, `ConnectionLost` when the broker cannot be reached.
        """
        if destination is not None and not isinstance(destination, (list, tuple)):
            raise ValueError(f"destination must be a list or tuple of node names, not {destination!r}")
        settings = self._app.conf.settings
        request = SentCommand(
            command,
            {**(arguments or {}), **extra},
            exchange=f"{settings.control.exchange}.pidbox",
            destination=destination,
            pattern=pattern,
            matcher=matcher,
            secret=settings.control.secret,
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
        """Return ``[{node: {"ok": "pong"}}]`` from all workers that answer."""
        return self.broadcast("ping", reply=True, destination=destination, timeout=timeout, **options) or Replies()

    def revoke(
        self,
        task_id: str | Sequence[str],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | int | None = None,
        **options: Any,
    ) -> Replies | None:
        """Make workers skip the tasks with this id or these ids; with `terminate`, end them if they are running.

        `signal`, a name or number, is sent to the process of a running task; None: TERM.
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
        """Revoke the tasks with this id or these ids, and end them if they are running."""
        return self.revoke(task_id, destination=destination, terminate=True, signal=signal, **options)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Sequence[str] | None = None,
        **options: Any,
    ) -> Replies | None:
        """Set the time limits of the task `task_name`, in seconds, for later starts; None: no limit."""
        arguments = {"task_name": task_name, "soft": soft, "hard": hard}
        return self.broadcast("time_limit", arguments, destination=destination, **options)

    def pool_grow(self, n: int = 1, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Add `n` slots to the pool of each worker."""
        return self.broadcast("pool_grow", {"n": n}, destination=destination, **options)

    def pool_shrink(self, n: int = 1, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Remove `n` slots from the pool of each worker, after their running tasks."""
        return self.broadcast("pool_shrink", {"n": n}, destination=destination, **options)

    def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: str | None = None,
        destination: Sequence[str] | None = None,
        **options: Any,
    ) -> Replies | None:
        """Make workers import `modules` (with `reload`, again) and replace each slot of their pools after its task.

        The default of `modules` is all modules with tasks. `reloader` is the dotted path of a function that reloads a
        module. Workers must allow it: `pool_restarts` under ``[worker]``.
        """
        arguments = {"modules": None if modules is None else list(modules), "reload": reload, "reloader": reloader}
        return self.broadcast("pool_restart", arguments, destination=destination, **options)

    def unrevoke(
        self, task_id: str | Sequence[str], destination: Sequence[str] | None = None, **options: Any
    ) -> Replies | None:
        """Undo `revoke` for the tasks with this id or these ids, except for messages that workers have discarded."""
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
        """Make workers, until they stop, skip tasks that have one of these stamps, by name and value."""
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
        """Make workers consume from `queue`, too, until they stop.

        A definition in their settings is used, if any. Else `exchange` and `routing_key` default to the queue's name,
        and `options` are the other keys of a queue's table (``durable``, ``queue_arguments`` …). `others` are the
        arguments of `broadcast`.
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
        """Make workers stop consuming from `queue`. Tasks that they have received still run."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination=destination, **options)

    def rate_limit(
        self, task_name: str, rate_limit: str | float | None, destination: Sequence[str] | None = None, **options: Any
    ) -> Replies | None:
        """Set the rate limit of the task `task_name`, ``10/s``, ``200/m``, ``1000/h`` or 0, until the workers stop.

        The `rate_limit_scope` of the task does not change.
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
        """Set the bounds of the pool size of workers with ``--autoscale``, in slots; None: unchanged."""
        return self.broadcast("autoscale", {"max": max, "min": min}, destination=destination, **options)

    def quiet(self, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Make workers fetch no more tasks and requeue those that have not started; running tasks continue."""
        return self.broadcast("quiet", destination=destination, **options)

    def resume(self, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Make quiet workers fetch tasks again."""
        return self.broadcast("resume", destination=destination, **options)

    def enable_events(self, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Make workers send task events."""
        return self.broadcast("enable_events", destination=destination, **options)

    def disable_events(self, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Make workers stop sending task events."""
        return self.broadcast("disable_events", destination=destination, **options)

    def heartbeat(self, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Make workers send a heartbeat event now."""
        return self.broadcast("heartbeat", destination=destination, **options)

    def election(self, id: str, topic: str, action: Any = None, **options: Any) -> Replies | None:  # noqa: A002
        """Make Celery's workers elect one that does `action`; the workers of this project take no part."""
        return self.broadcast("election", {"id": id, "topic": topic, "action": action}, **options)

    def purge(self) -> int:
        """Drop all messages of the queues that workers with these settings consume from; return their number."""
        queues = select_queues(self._app.conf.settings, None, None)
        return sum(self._app.transport.purge(queue) for queue in queues)

    def shutdown(self, destination: Sequence[str] | None = None, **options: Any) -> Replies | None:
        """Make workers stop warmly."""
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
        """Return an `Inspect` for all workers, for a list of workers, or for one."""
        return Inspect(self, destination, timeout, callback, limit, pattern, matcher)
