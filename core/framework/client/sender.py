"""Sending: builds the message of a call, with every header of task protocol 2.

1. `MessagePlan` holds what does not change between two calls of one task: a header template, the address, the
   serializer.
2. `Sender.build` makes one message, `Sender.build_plain` the same for a call without options, which is most of them.
3. `Sender.retry_of` makes the message that runs a task again: the one that came, with another count and eta.
4. Hooks are called only if somebody listens.

Source: task protocol 2 (and 1, where the settings ask for it) as published by Celery 5.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from framework.client.request import Context
from framework.client.routing import Destination, Router
from framework.client.task_policy import annotate
from framework.exceptions import ConfigError
from framework.message import JSON, UTF8, Outgoing
from framework.wire.identity import new_id, origin
from framework.wire.serialization import dumps, encode, safe_repr

if TYPE_CHECKING:
    from framework._boot.hooks import Hooks
    from framework._config.settings import Settings
    from framework.client.publisher import Publisher
    from framework.client.sent_events import SentEvents

logger = logging.getLogger(__name__)

#: Attributes of a task that are options of every call of it.
TASK_OPTIONS: Final = (
    "queue",
    "exchange",
    "exchange_type",
    "routing_key",
    "priority",
    "expires",
    "serializer",
    "delivery_mode",
    "compression",
    "time_limit",
    "soft_time_limit",
)
_ROUTING: Final = frozenset({"queue", "exchange", "exchange_type", "routing_key", "delivery_mode"})
_NO_EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_NO_EMBED_JSON: Final = b', {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
_PLAIN: Final = frozenset({int, str, bool, type(None)})
_fast_json = msgspec.json.Encoder().encode


class MessagePlan:
    """What is the same for every call of one task."""

    __slots__ = ("address", "compression", "name", "options", "plain", "priority", "serializer", "template")

    def __init__(self, name: str, options: dict[str, Any], ignore_result: bool | None) -> None:
        self.name = name
        self.options = options
        self.serializer: str = JSON
        self.compression: str | None = None
        self.priority: int | None = None
        self.address: Destination | None = None
        self.plain = False
        self.template: dict[str, Any] = {
            "lang": "py",
            "task": name,
            "id": None,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [options.get("time_limit"), options.get("soft_time_limit")],
            "root_id": None,
            "parent_id": None,
            "argsrepr": "()",
            "kwargsrepr": "{}",
            "origin": "",
            "ignore_result": ignore_result,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        }


class Sender:
    """Builds and sends messages for one `App` with one set of settings."""

    def __init__(self, settings: Settings, publisher: Publisher, hooks: Hooks) -> None:
        self.settings = settings
        self.publisher = publisher
        self.router = Router(settings)
        self._task = settings.task
        self._plans: dict[str, MessagePlan] = {}
        self._zone = _zone(settings)
        hooks.load_installed()
        self.before = hooks.bind("before_task_publish")
        self.after = hooks.bind("after_task_publish")
        #: Tells monitors what is sent; None where that is not wanted.
        self.sent_events: SentEvents | None = None
        if settings.task.send_sent_event:
            from framework.client.sent_events import SentEvents

            self.sent_events = SentEvents(settings, publisher)

    # ------------------------------------------------ plans

    def plan(self, name: str, task: Any = None) -> MessagePlan:
        """Return the plan for the task `name`; `task` is None for a task that this process does not have."""
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
        plan = MessagePlan(name, options, ignore)
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

    # ------------------------------------------------ building

    def build_plain(
        self, plan: MessagePlan, task_id: str, args: Sequence[Any], kwargs: dict[str, Any], parent: Context | None
    ) -> Outgoing:
        """Build the message of a call without options; `plan.plain` must be set."""
        headers = plan.template.copy()
        headers["id"] = task_id
        if parent is None:
            headers["root_id"] = task_id
        else:
            headers["root_id"] = parent.root_id or parent.id
            headers["parent_id"] = parent.id
        if args:
            headers["argsrepr"] = safe_repr(args, maxlevels=self._task.repr_maxlevels)
        elif type(args) is list:
            headers["argsrepr"] = "[]"
        if kwargs:
            headers["kwargsrepr"] = safe_repr(kwargs, maxlevels=self._task.repr_maxlevels)
        headers["origin"] = origin()
        address = plan.address
        assert address is not None
        priority = plan.priority
        if parent is not None and self._task.inherit_parent_priority:
            priority = _or(parent.delivery_info["priority"], priority)
        return Outgoing(
            _plain_body(args, kwargs),
            headers,
            address.exchange,
            address.routing_key,
            address.exchange_type,
            JSON,
            UTF8,
            task_id,
            self.publisher.oid,
            priority,
            None,
            address.delivery_mode,
        )

    def build(
        self,
        plan: MessagePlan,
        task_id: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        options: Mapping[str, Any],
        parent: Context | None,
    ) -> tuple[Outgoing, Destination]:
        """Build the message of a call with `options`, those of `Task.apply_async`.

        Raises `TypeError` and `ValueError` for arguments and options that cannot be sent, `ConfigError` for a bad
        queue.
        """
        if not isinstance(args, (list, tuple)):
            raise TypeError(f"the arguments of a task must be a list or tuple, and are {args!r:.100}")
        if not isinstance(kwargs, Mapping):
            raise TypeError(f"the keyword arguments of a task must be a mapping, and are {kwargs!r:.100}")
        given = plan.options
        if options:
            given = {**given, **{name: value for name, value in options.items() if value is not None}}
        if not self.router.plain:
            given = self.router.route(plan.name, args, kwargs, given)
        get = given.get
        address = self.router.address(given)
        now = datetime.now(UTC)
        eta = _moment(get("eta"), "eta", self._zone)
        if (countdown := get("countdown")) and (countdown := _seconds(countdown, "countdown")):
            eta = (now + timedelta(seconds=countdown)).isoformat()
        expires, expiration = self._expiry(get("expires"), now)
        priority = get("priority")
        root_id, parent_id = get("root_id"), get("parent_id")
        if parent is not None:
            root_id = root_id or parent.root_id or parent.id
            parent_id = parent_id or parent.id
            if priority is None and self._task.inherit_parent_priority:
                priority = parent.delivery_info["priority"]
        limits = [_limit(get("time_limit"), "time_limit"), _limit(get("soft_time_limit"), "soft_time_limit")]
        levels = self._task.repr_maxlevels
        headers = plan.template.copy()
        headers.update(
            id=task_id,
            shadow=get("shadow"),
            eta=eta,
            expires=expires,
            group=get("group_id"),
            group_index=get("group_index"),
            retries=get("retries") or 0,
            timelimit=limits,
            root_id=root_id or task_id,
            parent_id=parent_id,
            argsrepr=get("argsrepr") or safe_repr(args, maxlevels=levels),
            kwargsrepr=get("kwargsrepr") or safe_repr(kwargs, maxlevels=levels),
            origin=get("origin") or origin(),
            replaced_task_nesting=get("replaced_task_nesting") or 0,
            stamped_headers=get("stamped_headers"),
            stamps=_stamps(given) if given.get("stamped_headers") else get("stamps") or {},
        )
        if (ignore := get("ignore_result")) is not None:
            headers["ignore_result"] = ignore
        if custom := get("headers"):
            headers.update(_mapping(custom, "headers"))
        embed = {
            "callbacks": _links(get("link"), "link"),
            "errbacks": _links(get("link_error"), "link_error"),
            "chain": get("chain") or None,
            "chord": get("chord"),
        }
        body: Any = [args, kwargs, embed]
        if self._task.protocol == 1:
            body, headers = _as_protocol_1(headers, args, kwargs, embed), dict(get("headers") or {})
        content_type, content_encoding, data, mime = encode(
            body, get("serializer") or self._task.serializer, get("compression") or self._task.compression
        )
        if mime is not None:
            headers["compression"] = mime
        reply_to = get("reply_to")
        if priority is not None and (not isinstance(priority, int) or not 0 <= priority <= 255):
            raise TypeError(f"priority must be a whole number from 0 to 255, and is {priority!r:.100}")
        message = Outgoing(
            data,
            headers,
            address.exchange,
            address.routing_key,
            address.exchange_type,
            content_type,
            content_encoding,
            task_id,
            self.publisher.oid if reply_to is None else reply_to,
            self._task.default_priority if priority is None else priority,
            expiration,
            address.delivery_mode,
            get("properties"),
        )
        return message, address

    def _expiry(self, expires: Any, now: datetime) -> tuple[str | None, int | None]:
        """Return `expires` as ISO 8601 and as milliseconds from now."""
        if expires is None:
            return None, None
        if isinstance(expires, (int, float, timedelta)):
            moment = now + timedelta(seconds=_seconds(expires, "expires"))
        else:
            text = _moment(expires, "expires", self._zone)
            moment = datetime.fromisoformat(text or "")
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
        left = (moment - now).total_seconds()
        if left < 0:
            logger.warning("A task is sent that has expired %.1f s ago", -left)
        return moment.isoformat(), max(int(left * 1000), 0)

    def retry_of(self, request: Context, options: Mapping[str, Any], task: Any) -> tuple[Outgoing, Destination]:
        """Build the message that runs `request` again.

        It keeps everything that came with the message but what `options` say: args, kwargs, eta, countdown,
        retries, queue, ….
        """
        info = request.delivery_info
        kept = {
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
        if type(args) is list:  # as the first call of it is shown
            args = tuple(args)
        task_id = str(call.pop("task_id", None) or request.id)
        return self.build(self.plan(task.name, task), task_id, args, kwargs, call, None)

    def place_of(self, request: Context) -> dict[str, Any]:
        """Return the options that send a message where that of `request` came from."""
        info = request.delivery_info
        exchange, key = info.get("exchange"), info.get("routing_key")
        if not exchange:
            return {"queue": key} if key else {}
        for queue in self.router.queues.values():
            if queue.exchange.name == exchange:
                return {"exchange": exchange, "exchange_type": queue.exchange.type, "routing_key": key}
        return {"exchange": exchange, "routing_key": key}

    # ------------------------------------------------ sending

    def send(self, name: str, message: Outgoing, address: Destination, options: Mapping[str, Any]) -> None:
        """Publish one message. Raises `TransportError`."""
        if self.before is not None:
            self.before(name=name, message=message)
        self.publisher.publish(
            (message,),
            () if address.queue is None else (address.queue,),
            options.get("retry"),
            options.get("retry_policy"),
        )
        if self.after is not None:
            self.after(name=name, message=message)
        if self.sent_events is not None:
            self.sent_events.tell([(name, message, address)])


def _plain_body(args: Sequence[Any], kwargs: dict[str, Any]) -> bytes:
    for value in args:
        if type(value) not in _PLAIN:
            return dumps((args, kwargs, _NO_EMBED))
    for value in kwargs.values():
        if type(value) not in _PLAIN:
            return dumps((args, kwargs, _NO_EMBED))
    try:
        return b"[%b, %b%b" % (_fast_json(args), _fast_json(kwargs), _NO_EMBED_JSON)
    except (ValueError, TypeError):  # lone surrogates, keys that are no strings
        return dumps((args, kwargs, _NO_EMBED))


def _links(links: Any, name: str) -> list[Any] | None:
    if links is None or links == []:
        return None
    found = list(links) if isinstance(links, (list, tuple)) else [links]
    for link in found:
        if not isinstance(link, Mapping):
            raise TypeError(f"{name} takes signatures, such as add.s(1), or a list of them, and got {link!r:.100}")
    return found


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of names to values, and is {value!r:.100}")
    return value


def _limit(value: Any, name: str) -> float | None:
    if value is not None and (not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0):
        raise TypeError(f"{name} must be a number of seconds, and is {value!r:.100}")
    return cast("float | None", value)


def _stamps(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stamps: options under names of their own, or what came in another message."""
    own = options.get("stamps") or {}
    return {name: options[name] if name in options else own.get(name) for name in options["stamped_headers"]}


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _zone(settings: Settings) -> tzinfo:
    """Return the zone of times without one."""
    if settings.timezone is None or settings.timezone.upper() == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(settings.timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(
            f"timezone must be the name of a time zone, such as Europe/Vienna, and is {settings.timezone!r}"
        ) from error


def _moment(value: Any, name: str, zone: tzinfo) -> str | None:
    """Return a time as ISO 8601 with a zone; a text is what came in a message, and stays as it is."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(
                f"{name} must be a datetime, or its text as in 2030-01-31T12:00:00+00:00, and is {value!r:.100}"
            ) from None
        return value
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=zone)).isoformat()
    if name == "eta":
        raise TypeError(f"eta must be a datetime, and is {value!r:.100}; countdown takes seconds")
    raise TypeError(f"{name} must be a number of seconds or a datetime, and is {value!r:.100}")


def _seconds(value: Any, name: str) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number of seconds, and is {value!r:.100}") from None


def _as_protocol_1(
    headers: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any], embed: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "task": headers["task"],
        "id": headers["id"],
        "args": args,
        "kwargs": kwargs,
        "group": headers["group"],
        "group_index": headers["group_index"],
        "retries": headers["retries"],
        "eta": headers["eta"],
        "expires": headers["expires"],
        "utc": True,
        "callbacks": embed["callbacks"],
        "errbacks": embed["errbacks"],
        "timelimit": headers["timelimit"],
        "taskset": headers["group"],
        "chord": embed["chord"],
    }


def fresh_id(options: Mapping[str, Any]) -> str:
    """Return the task id that `options` ask for, else a new one."""
    return options.get("task_id") or new_id()
