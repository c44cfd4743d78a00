"""The sender: turns a call into a message and passes it to the publisher.

1. `Sender.plan` keeps a `MessagePlan` for each task; `Sender.messages` builds the message of a call with it.
2. `Sender.retry_of` builds the message of a retry: that of the running call, with another count and eta.
3. `Sender.send` publishes a message, with hooks and events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from framework.client.messages import TASK_OPTIONS, MessageBuilder, MessagePlan
from framework.client.routing import Destination, Router
from framework.client.sent_events import SentEvents
from framework.client.task_policy import annotate
from framework.message import JSON, Outgoing
from framework.wire.identity import shared_queue

if TYPE_CHECKING:
    from framework._boot.hooks import Hooks
    from framework._config.settings import Settings
    from framework.client.publisher import Publisher
    from framework.client.request import Context

_ROUTING: Final = frozenset({"queue", "exchange", "exchange_type", "routing_key", "delivery_mode"})


class Sender:
    """Builds and sends messages for one `App` with one set of settings."""

    def __init__(self, settings: Settings, publisher: Publisher, hooks: Hooks) -> None:
        self.settings = settings
        self.publisher = publisher
        self.router = Router(settings)
        self.messages = MessageBuilder(settings, self.router, publisher)
        self._task = settings.task
        self._plans: dict[str, MessagePlan] = {}
        hooks.load_installed()
        self.before = hooks.bind("before_task_publish")
        self.after = hooks.bind("after_task_publish")
        #: None if the setting `send_sent_event` is off.
        self.sent_events = SentEvents(settings, publisher) if settings.task.send_sent_event else None

    def plan(self, name: str, task: Any = None) -> MessagePlan:
        """Return the plan for the task `name`; `task` is None for a task unknown in this process."""
        plan = self._plans.get(name) if task is not None else None
        if plan is None:
            plan = self._make_plan(name, task)
            if task is not None:
                self._plans[name] = plan
        return plan

    def _make_plan(self, name: str, task: Any) -> MessagePlan:
        if task is not None:
            annotate(task, self._task.annotations)
        options = {key: value for key in TASK_OPTIONS if (value := getattr(task, key, None)) is not None}
        ignore = None
        if task is not None:
            ignore = self._task.ignore_result if task.ignore_result is None else bool(task.ignore_result)
        plan = MessagePlan(name, task, options, ignore)
        plan.serializer = options.get("serializer") or self._task.serializer
        plan.compression = options.get("compression") or self._task.compression
        priority = options.get("priority")
        plan.priority = self._task.default_priority if priority is None else priority
        if self.router.plain:
            plan.address = self.router.address(options)
            plan.plain = (
                plan.serializer in ("json", JSON)
                and plan.compression is None
                and "expires" not in options
                and self._task.protocol == 2
                and self.before is None
            )
        return plan

    def retry_of(self, request: Context, options: Mapping[str, Any], task: Any) -> tuple[Outgoing, Destination]:
        """Build the message that runs `request` again.

        It equals the original message, but for `options`: args, kwargs, eta, countdown, retries, queue, ….
        """
        info = request.delivery_info
        content_type, compression = request.encoding
        kept = {
            "serializer": content_type,
            "compression": compression,
            "root_id": request.root_id or request.id,
            "parent_id": request.id,
            "shadow": request.shadow,
            "group_id": request.group,
            "group_index": request.group_index,
            "expires": request.expires,
            "time_limit": request.timelimit[0],
            "soft_time_limit": request.timelimit[1],
            "link": request.callbacks,
            "link_error": request.errbacks,
            "chain": request.chain,
            "chord": request.chord,
            "headers": request.headers,
            "priority": info["priority"],
            "reply_to": request.reply_to,
            "origin": request.origin,
            "ignore_result": request.ignore_result,
            "replaced_task_nesting": request.replaced_task_nesting,
            "stamped_headers": request.stamped_headers,
            "stamps": request.stamps,
        }
        if not _ROUTING & options.keys():
            kept |= self.place_of(request)
        call = {**kept, **options}
        args, kwargs = call.pop("args", None), call.pop("kwargs", None)
        args = request.args if args is None else args
        kwargs = request.kwargs if kwargs is None else kwargs
        if type(args) is list:  # for the same `argsrepr` as in the first call
            args = tuple(args)
        task_id = str(call.pop("task_id", None) or request.id)
        return self.messages.build(self.plan(task.name, task), task_id, args, kwargs, call, None)

    def place_of(self, request: Context) -> dict[str, Any]:
        """Return the options that send a message to the queue of `request`."""
        info = request.delivery_info
        exchange, key = info.get("exchange"), info.get("routing_key")
        if not exchange:
            if key and shared_queue(key) != key:
                return {"exchange": "", "routing_key": key}  # not `queue`: only its worker may declare it
            return {"queue": key} if key else {}
        for queue in self.router.queues.values():
            if queue.exchange.name == exchange:
                return {"exchange": exchange, "exchange_type": queue.exchange.type, "routing_key": key}
        return {"exchange": exchange, "routing_key": key}

    def send(self, name: str, message: Outgoing, address: Destination, options: Mapping[str, Any]) -> None:
        """Publish one message. Raises `TransportError`."""
        if self.before is not None:
            self.before(name=name, message=message)
        self.publisher.publish((message,), address.declare, options.get("retry"), options.get("retry_policy"))
        if self.after is not None:
            self.after(name=name, message=message)
        if self.sent_events is not None:
            self.sent_events.send([(name, message, address)])
