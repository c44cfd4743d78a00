"""Builds the message of a call, with every header of task protocol 2.

1. `MessagePlan` holds the constant parts of a task's messages: a header template, the address, the serializer.
2. `MessageBuilder.build` makes one message; `MessageBuilder.build_plain` is faster, for a call without options.

Source: task protocol 2 (and 1, where the settings ask for it) as published by Celery 5.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Final

import msgspec

from framework.client.call_options import NO_PROPERTIES, still_valid
from framework.client.routing import Destination, Router
from framework.exceptions import ConfigError
from framework.message import JSON, UTF8, Outgoing
from framework.wire.identity import origin
from framework.wire.safe_repr import safe_repr
from framework.wire.serialization import dumps, encode

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.client.publisher import Publisher
    from framework.client.request import Context

logger = logging.getLogger(__name__)

#: Attributes of a task that are options of every call.
TASK_OPTIONS: Final = (
    "queue", "exchange", "exchange_type", "routing_key", "priority", "expires", "serializer", "delivery_mode",
    "compression", "time_limit", "soft_time_limit",
)  # fmt: skip
#: Options that become headers, with the names of the headers.
_AS_HEADERS: Final = {
    "shadow": "shadow",
    "group_id": "group",
    "group_index": "group_index",
    "stamped_headers": "stamped_headers",
    "ignore_result": "ignore_result",
}
#: Options that name the signatures to call after the task.
_FOLLOWING: Final = frozenset({"link", "link_error", "chain", "chord"})
_NO_EMBED: Final[dict[str, Any]] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_NO_EMBED_JSON: Final = b', {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
_PLAIN: Final = frozenset({int, str, bool, type(None)})
_fast_json = msgspec.json.Encoder().encode


class MessagePlan:
    """The constant parts of the messages of one task."""

    __slots__ = ("address", "compression", "name", "options", "plain", "priority", "serializer", "task", "template")

    def __init__(self, name: str, task: Any, options: dict[str, Any], ignore_result: bool | None) -> None:
        self.name = name
        self.task = task
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


class MessageBuilder:
    """Builds the messages of calls with one set of settings."""

    def __init__(self, settings: Settings, router: Router, publisher: Publisher) -> None:
        """`publisher` supplies the name of the reply queue."""
        self._task = settings.task
        self._router = router
        self._publisher = publisher
        self._zone = _zone(settings)

    def build_plain(
        self, plan: MessagePlan, task_id: str, args: Sequence[Any], kwargs: dict[str, Any], parent: Context | None
    ) -> Outgoing:
        """Build the message of a call without options; `plan.plain` must be true."""
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
            inherited = parent.delivery_info["priority"]
            priority = priority if inherited is None else inherited
        return Outgoing(
            _plain_body(args, kwargs),
            headers,
            address.exchange,
            address.routing_key,
            address.exchange_type,
            JSON,
            UTF8,
            task_id,
            self._publisher.oid,
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

        Raises `TypeError` or `ValueError` for arguments and options that cannot be sent, `ConfigError` for a bad queue.
        """
        _check_arguments(args, kwargs)
        given = self._given(plan, args, kwargs, options)
        address = self._router.address(given)
        headers = self._headers(plan, task_id, args, kwargs, given, parent)
        embed = _embed(given)
        body: Any = [args, kwargs, embed]
        if self._task.protocol == 1:
            body, headers = _as_protocol_1(headers, args, kwargs, embed), dict(given.get("headers") or {})
        content_type, content_encoding, data, mime = encode(
            body, given.get("serializer") or self._task.serializer, given.get("compression") or self._task.compression
        )
        if mime is not None:
            headers["compression"] = mime
        reply_to = given.get("reply_to")
        message = Outgoing(
            data,
            headers,
            address.exchange,
            address.routing_key,
            address.exchange_type,
            content_type,
            content_encoding,
            task_id,
            self._publisher.oid if reply_to is None else reply_to,
            self._priority(given, parent),
            _milliseconds(given.get("expiration"), "expiration"),
            address.delivery_mode,
            _properties(given),
        )
        return message, address

    def _given(
        self, plan: MessagePlan, args: Sequence[Any], kwargs: dict[str, Any], options: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return the options of a call: those given, else those of the task, else those of its route."""
        given = plan.options
        if options:
            given = {
                **(still_valid(given, options) if given else given),
                **{name: value for name, value in options.items() if value is not None},
            }
        return given if self._router.plain else self._router.route(plan.name, args, kwargs, given, plan.task)

    def _headers(
        self,
        plan: MessagePlan,
        task_id: str,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        given: Mapping[str, Any],
        parent: Context | None,
    ) -> dict[str, Any]:
        get = given.get
        levels = self._task.repr_maxlevels
        root_id, parent_id = _lineage(given, parent)
        headers = plan.template.copy()
        headers["id"] = task_id
        headers["eta"], headers["expires"] = self._times(get("eta"), get("countdown"), get("expires"))
        headers["retries"] = get("retries") or 0
        hard, soft = headers["timelimit"] = [
            _limit(get("time_limit"), "time_limit"),
            _limit(get("soft_time_limit"), "soft_time_limit"),
        ]
        if hard is not None and soft is not None and soft > hard and not headers["retries"]:
            # A retry keeps the limits of its message, whoever sent it.
            raise ValueError(f"soft_time_limit ({soft:g} s) must not be above time_limit ({hard:g} s)")
        headers["root_id"] = root_id or task_id
        headers["parent_id"] = parent_id
        headers["argsrepr"] = get("argsrepr") or safe_repr(args, maxlevels=levels)
        headers["kwargsrepr"] = get("kwargsrepr") or safe_repr(kwargs, maxlevels=levels)
        headers["origin"] = get("origin") or origin()
        headers["replaced_task_nesting"] = get("replaced_task_nesting") or 0
        headers["stamps"] = _stamps(given)
        for name, value in given.items():
            if name in _AS_HEADERS and value is not None:
                headers[_AS_HEADERS[name]] = value
        if custom := get("headers"):
            headers.update(_mapping(custom, "headers"))
        return headers

    def _times(self, eta: Any, countdown: Any, expires: Any) -> tuple[str | None, str | None]:
        """Return the eta and the time of expiry in ISO 8601."""
        if eta is None and not countdown and expires is None:
            return None, None
        now = datetime.now(UTC)
        begin = None if eta is None else _moment(eta, "eta", self._zone).isoformat()
        if countdown and (seconds := _seconds(countdown, "countdown")):
            begin = _later(now, seconds, "countdown").isoformat()
        return begin, self._expiry(expires, now)

    def _expiry(self, expires: Any, now: datetime) -> str | None:
        """Return `expires` in ISO 8601.

        Only this header says it, not the property of AMQP: a broker that drops a message tells nobody, and a caller
        or a chord would wait for it for ever.
        """
        if expires is None:
            return None
        if isinstance(expires, (int, float, timedelta)):
            moment = _later(now, _seconds(expires, "expires"), "expires")
        else:
            moment = _moment(expires, "expires", self._zone)
        left = (moment - now).total_seconds()
        if left < 0:
            logger.warning("The task being sent expired %.1f s ago: workers will discard it", -left)
        return moment.isoformat()

    def _priority(self, given: Mapping[str, Any], parent: Context | None) -> int | None:
        priority = given.get("priority")
        if priority is None and parent is not None and self._task.inherit_parent_priority:
            priority = parent.delivery_info["priority"]
        if priority is None:
            return self._task.default_priority
        if not isinstance(priority, int) or not 0 <= priority <= 255:
            raise TypeError(f"priority must be a whole number from 0 to 255, not {priority!r:.100}")
        return priority


def _check_arguments(args: Any, kwargs: Any) -> None:
    if not isinstance(args, (list, tuple)):
        raise TypeError(f"the arguments of a task must be a list or tuple, not {args!r:.100}")
    if type(kwargs) is not dict and not isinstance(kwargs, Mapping):  # the latter alone is slow
        raise TypeError(f"the keyword arguments of a task must be a mapping, not {kwargs!r:.100}")


def _lineage(given: Mapping[str, Any], parent: Context | None) -> tuple[str | None, str | None]:
    """Return the ids of the root and of the parent, or None."""
    root_id, parent_id = given.get("root_id"), given.get("parent_id")
    if parent is None:
        return root_id, parent_id
    return root_id or parent.root_id or parent.id, parent_id or parent.id


def _stamps(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stamps: options named in `stamped_headers`, else those in the option `stamps`."""
    own = given.get("stamps") or {}
    if names := given.get("stamped_headers"):
        return {name: given[name] if name in given else own.get(name) for name in names}
    return own


def _embed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `embed` part of the body: the signatures to call after the task."""
    if _FOLLOWING.isdisjoint(given):
        return _NO_EMBED
    return {
        "callbacks": _links(given.get("link"), "link"),
        "errbacks": _links(given.get("link_error"), "link_error"),
        "chain": given.get("chain") or None,
        "chord": given.get("chord"),
    }


def _properties(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the options of a call that become properties of its message: AMQP's, and those that nobody else knows."""
    names = given.keys() - NO_PROPERTIES
    own = given.get("properties")
    if not names:
        return own
    stamps = given.get("stamped_headers") or ()
    return {**(own or {}), **{name: given[name] for name in names if name not in stamps}}


def _plain_body(args: Sequence[Any], kwargs: dict[str, Any]) -> bytes:
    for value in args:
        if type(value) not in _PLAIN:
            return dumps((args, kwargs, _NO_EMBED))
    for value in kwargs.values():
        if type(value) not in _PLAIN:
            return dumps((args, kwargs, _NO_EMBED))
    try:
        return b"[%b, %b%b" % (_fast_json(args), _fast_json(kwargs), _NO_EMBED_JSON)
    except (ValueError, TypeError):  # lone surrogates, keys that are not strings
        return dumps((args, kwargs, _NO_EMBED))


def _links(links: Any, name: str) -> list[Any] | None:
    if links is None or links == []:
        return None
    found = list(links) if isinstance(links, (list, tuple)) else [links]
    for link in found:
        if not isinstance(link, Mapping):
            raise TypeError(f"{name} takes signatures, such as add.s(1), or a list of them, not {link!r:.100}")
    return found


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if type(value) is not dict and not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of names to values, not {value!r:.100}")
    return value


def _limit(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{name} must be a number of seconds, not {value!r:.100}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number of seconds, not {value!r:.100}")
    return value


def _zone(settings: Settings) -> tzinfo:
    """Return the time zone of times without one."""
    if settings.timezone is None or settings.timezone.upper() == "UTC":
        return UTC
    # Here: most programs use UTC.
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(settings.timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(
            f"timezone must be the name of a time zone, such as Europe/Vienna, not {settings.timezone!r}"
        ) from error


def _moment(value: Any, name: str, zone: tzinfo) -> datetime:
    """Return the time that `value`, a datetime or its text, means; without a zone of its own, in `zone`."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(
                f"{name} must be a datetime, or its text as in 2030-01-31T12:00:00+00:00, not {value!r:.100}"
            ) from None
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=zone)
    if name == "eta":
        raise TypeError(f"eta must be a datetime, not {value!r:.100}; countdown takes seconds")
    raise TypeError(f"{name} must be a number of seconds or a datetime, not {value!r:.100}")


def _seconds(value: Any, name: str) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number of seconds, not {value!r:.100}") from None


def _milliseconds(seconds: Any, name: str) -> int | None:
    return None if seconds is None else int(_seconds(seconds, name) * 1000)


def _later(now: datetime, seconds: float, name: str) -> datetime:
    try:
        return now + timedelta(seconds=seconds)
    except (OverflowError, ValueError):  # ValueError: NaN
        raise ValueError(f"{name} must be a number of seconds up to the year 9999, not {seconds!r}") from None


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
