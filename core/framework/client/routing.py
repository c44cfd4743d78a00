"""Routing: the queue of each message, and the queues that a worker consumes from.

1. `Queues` holds the queues that the settings define, and creates missing ones if allowed.
2. `Router.route` applies `task_routes`: options of the call win over a route, and a route over the defaults.
3. `Router.address` turns options into an exchange and a routing key; the anonymous exchange leads to a direct queue. A
   routing key without a queue and an exchange goes to the exchange of the default queue.
4. `select_queues` applies ``-Q`` and ``-X`` of the worker; `worker_direct` is the own queue of one worker.
5. A broadcast queue is known by one name; a worker consumes its copies from a queue of its own (`consumed`).

Source: the routing rules and publishing rules of Celery 5 (task protocol 2).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgspec

from framework.api.transport import Exchange, Queue
from framework.client.call_options import still_valid
from framework.exceptions import ConfigError, QueueNotFound
from framework.wire.identity import own_queue

if TYPE_CHECKING:
    from framework._config.settings import Settings, TaskSettings

__all__ = ["Destination", "Exchange", "Queue", "Queues", "Router", "select_queues", "worker_direct"]

Route: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = Callable[[str, Sequence[Any], Mapping[str, Any], Mapping[str, Any], Any], Route | None]

#: The most bytes of a name, on any broker: those of an AMQP short string.
_NAME_MAX: Final = 255

_EXCHANGE_FIELDS = frozenset(Exchange.__struct_fields__)
_QUEUE_FIELDS = frozenset(Queue.__struct_fields__)
#: Control characters, line ends, and surrogates, which no encoding has.
_UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
#: Keys of a queue's table that are about its exchange.
_OF_EXCHANGE = {
    "exchange_type": "type",
    "exchange_durable": "durable",
    "exchange_auto_delete": "auto_delete",
    "exchange_arguments": "arguments",
    "delivery_mode": "delivery_mode",
}
#: Seconds after which the broker drops a worker's own queue that nobody consumes: its worker died before it could.
_OWN_EXPIRES: Final = 60.0
_OF_QUEUE = {"queue_durable": "durable", "queue_auto_delete": "auto_delete", "binding_key": "routing_key"}


def check_name(what: str, name: Any) -> None:
    """Raise `ValueError` if no `what` (queue, exchange, routing key) can have the name `name` on every broker."""
    if not isinstance(name, str):
        raise TypeError(f"the name of the {what} must be a text, not {name!r:.100}")
    if name.isascii() and name.isprintable() and len(name) <= _NAME_MAX and (name or what != "queue"):
        return
    if not name and what == "queue":
        raise ValueError("the name of the queue is empty: name one, or leave the option out")
    size = len(name.encode(errors="surrogatepass"))
    if size > _NAME_MAX:
        raise ValueError(
            f"the name of the {what} has {size:,} bytes in {len(name):,} characters; at most {_NAME_MAX} are possible, "
            "counted in bytes"
        )
    if _UNUSABLE.search(name):
        raise ValueError(
            f"the name of the {what} has a control character, or one that is no text: {name!a:.100}; use letters, "
            "digits, dots, …"
        )


class Destination(NamedTuple):
    """The address to publish a message to, the queue that was chosen, or None, and the queues to declare first."""

    exchange: str
    routing_key: str
    exchange_type: str
    queue: Queue | None
    delivery_mode: int
    declare: tuple[Queue, ...]


class Queues(Mapping[str, Queue]):
    """The queues of an application by name; `queue_for` creates missing ones if the settings allow it."""

    def __init__(self, settings: TaskSettings) -> None:
        """Read ``[task] queues``. Raises `ConfigError`."""
        self._settings = settings
        self._queues: dict[str, Queue] = {}
        try:
            for queue in _defined(settings):
                self._queues[known_as(queue)] = self._finished(self._on_default(queue), settings.default_queue_type)
            if not self._queues:
                self._queues[settings.default_queue] = self._default()
        except ValueError as error:
            raise ConfigError(f"[task] queues, or the default of them: {error}") from error

    def _default(self) -> Queue:
        settings = self._settings
        name = settings.default_queue
        exchange = Exchange(settings.default_exchange or name, settings.default_exchange_type)
        queue = Queue(name=name, exchange=exchange, routing_key=settings.default_routing_key or name)
        return self._finished(queue, settings.default_queue_type)

    def _on_default(self, queue: Queue) -> Queue:
        """Return `queue`, on the default exchange if nothing is said about its exchange."""
        settings = self._settings
        if queue.exchange != Exchange() or queue.broadcast:
            return queue
        exchange = Exchange(settings.default_exchange or settings.default_queue, settings.default_exchange_type)
        return msgspec.structs.replace(queue, exchange=exchange)

    def given(self, queue: Any) -> Queue:
        """Return `queue`, the option of a call: a name or a description. Raises `QueueNotFound`."""
        if isinstance(queue, str):
            return self.queue_for(queue)
        found = as_queue(queue)
        check_name("queue", found.name)
        return self._finished(found, "classic") if found.broadcast else found

    def bound_to(self, exchange: str) -> tuple[Queue, ...]:
        """Return the queues on `exchange` that any program may declare."""
        return tuple(
            queue for queue in self._queues.values() if queue.exchange.name == exchange and not queue.exclusive
        )

    def _finished(self, queue: Queue, kind: str) -> Queue:
        """Return `queue` with defaults from the settings. Raises `ValueError` for a name that no broker can have."""
        check_name("queue", queue.name)
        check_name("exchange", queue.exchange.name)
        check_name("routing key", queue.routing_key)
        settings = self._settings
        changes: dict[str, Any] = {}
        if queue.broadcast:
            check_name("queue", consumed(queue).name)
            name = queue.exchange.name or known_as(queue)
            changes["exchange"] = msgspec.structs.replace(queue.exchange, name=name, type="fanout")
            # On Redis the key is a part of the channel: this is the key that Celery gives its broadcast queues.
            changes["routing_key"] = queue.routing_key or settings.default_routing_key or settings.default_queue
            return msgspec.structs.replace(queue, **changes)
        if not queue.exchange.name:
            default = settings.default_exchange
            changes["exchange"] = msgspec.structs.replace(queue.exchange, name=default or queue.name)
        if not queue.routing_key and queue.exchange.type != "fanout":
            changes["routing_key"] = settings.default_routing_key or queue.name
        if queue.max_priority is None and settings.queue_max_priority is not None:
            changes["max_priority"] = settings.queue_max_priority
        if kind == "quorum" and "x-queue-type" not in (queue.queue_arguments or {}):
            changes["queue_arguments"] = {**(queue.queue_arguments or {}), "x-queue-type": "quorum"}
        return msgspec.structs.replace(queue, **changes) if changes else queue

    def queue_for(self, name: str) -> Queue:
        """Return the queue `name`, created if it is missing.

        Raises `QueueNotFound` if it is missing and ``create_missing_queues`` under ``[task]`` is off.
        """
        queue = self._queues.get(name)
        if queue is None:
            if name == self._settings.default_queue:
                queue = self._default()
            else:
                if not self._settings.create_missing_queues:
                    raise QueueNotFound(
                        f"the queue {name!r} is not defined; defined are {', '.join(sorted(self._queues))} "
                        "(define it under [task.queues], or set create_missing_queues under [task])"
                    )
                queue = self.described(name, None, None, None, {})
            self._queues[name] = queue
        return queue

    def configured(self, name: str) -> Queue | None:
        """Return the queue `name` if the settings define it."""
        return self._queues.get(name)

    def described(
        self,
        name: str,
        exchange: str | None,
        exchange_type: str | None,
        routing_key: str | None,
        options: Mapping[str, Any],
    ) -> Queue:
        """Return the queue `name` as described; for the rest, the settings for missing queues apply.

        `options` are the keys of a queue's table. Raises `ConfigError` for an unknown key or a bad value.
        """
        settings = self._settings
        table = {
            **options,
            "exchange": exchange or name,
            "exchange_type": exchange_type or settings.create_missing_queue_exchange_type or "direct",
            "routing_key": name if routing_key is None else routing_key,
        }
        return self._finished(_from_table(name, table), settings.create_missing_queue_type)

    def __getitem__(self, name: str) -> Queue:
        return self._queues[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._queues)

    def __len__(self) -> int:
        return len(self._queues)


def _defined(settings: TaskSettings) -> Iterator[Queue]:
    defined = settings.queues
    if defined is None:
        return
    if isinstance(defined, Mapping):
        for name, table in defined.items():
            yield _from_table(str(name), table)
        return
    if isinstance(defined, str) or not isinstance(defined, Iterable):
        raise ConfigError(f"queues under [task] must be a table of queues or a list of Queue, not {defined!r}")
    for queue in defined:
        yield as_queue(queue)


def known_as(queue: Queue) -> str:
    """Return the name by which programs and users know `queue`."""
    return queue.alias if queue.broadcast and queue.alias else queue.name


def consumed(queue: Queue) -> Queue:
    """Return the queue from which a worker gets the messages for `queue`: of a broadcast queue, one of its own."""
    if not queue.broadcast or queue.alias:
        return queue
    return msgspec.structs.replace(
        queue,
        name=own_queue(queue.name),
        alias=queue.name,
        auto_delete=True,
        expires=_OWN_EXPIRES if queue.expires is None else queue.expires,
    )


def as_queue(queue: Any) -> Queue:
    """Return `queue`, a `Queue`, a name, a table with a name or a kombu queue, as a `Queue`. Raises `ConfigError`."""
    if isinstance(queue, Queue):
        return queue
    if isinstance(queue, str):
        return Queue(name=queue)
    if isinstance(queue, Mapping) and "name" in queue:
        table = dict(queue)
        return _from_table(str(table.pop("name")), table)
    if hasattr(queue, "name") and hasattr(queue, "exchange"):
        return _from_kombu(queue)
    raise ConfigError(f"a queue must be a Queue, a name or a table with a name, not {queue!r}")


def _from_kombu(queue: Any) -> Queue:
    """Return the `Queue` with the definition of a kombu queue."""
    fields = {name: getattr(queue, name) for name in _QUEUE_FIELDS - {"exchange", "broadcast"} if hasattr(queue, name)}
    exchange = queue.exchange
    if exchange is not None and not isinstance(exchange, str):
        exchange = Exchange(
            name=exchange.name or "",
            type=exchange.type or "direct",
            durable=bool(exchange.durable),
            auto_delete=bool(exchange.auto_delete),
            delivery_mode=exchange.delivery_mode,
            arguments=exchange.arguments or None,
        )
    else:
        exchange = Exchange(exchange or "")
    fields["routing_key"] = queue.routing_key or ""
    if queue.alias and exchange.type == "fanout":
        # kombu's Broadcast: an own name that it has made up is made up here, too, for each worker.
        fields["broadcast"] = True
        if queue.name.startswith("bcast."):
            fields["name"], fields["alias"] = queue.alias, None
    return Queue(exchange=exchange, **fields)


def _from_table(name: str, table: Any) -> Queue:
    where = f"[task.queues.{name}]"
    if isinstance(table, Queue):
        return table if table.name == name else msgspec.structs.replace(table, name=name)
    if table is None:
        table = {}
    if not isinstance(table, Mapping):
        if hasattr(table, "exchange") and hasattr(table, "routing_key"):
            return _from_kombu(table)
        raise ConfigError(f"{where} must be a table with exchange, routing_key …, not {table!r}")
    queue, exchange = _fields_of(table)
    queue = {"name": name, **queue}
    unknown = [key for key in queue if key not in _QUEUE_FIELDS] + [
        key for key in exchange if key not in _EXCHANGE_FIELDS
    ]
    if unknown:
        known = sorted((_QUEUE_FIELDS | set(_OF_EXCHANGE) | set(_OF_QUEUE)) - {"name"})
        raise ConfigError(f"{where} has no key {unknown[0]!r}; known are {', '.join(known)}")
    try:
        queue["exchange"] = msgspec.convert(exchange, Exchange)
        return msgspec.convert(queue, Queue)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error


def _fields_of(table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of the queue and those of its exchange from the keys of `table`."""
    queue: dict[str, Any] = {}
    exchange: dict[str, Any] = {}
    for key, value in table.items():
        if key == "exchange":
            exchange.update(_exchange_fields(value))
        elif key in _OF_EXCHANGE:
            exchange[_OF_EXCHANGE[key]] = value
        elif key == "durable":
            queue["durable"] = value
            exchange.setdefault("durable", value)
        else:
            queue[_OF_QUEUE.get(key, key)] = value
    return queue, exchange


def _exchange_fields(exchange: Any) -> Mapping[str, Any]:
    if isinstance(exchange, Exchange):
        return msgspec.structs.asdict(exchange)
    return exchange if isinstance(exchange, Mapping) else {"name": exchange}


class Router:
    """Finds the route of a call. Made once for a set of settings."""

    def __init__(self, settings: Settings) -> None:
        """Read ``[task] routes`` and ``[task] queues``. Raises `ConfigError`."""
        self._settings = settings.task
        self.queues = Queues(settings.task)
        self._rules = [_rule(one) for one in _rules(settings.task.routes)]
        self._default = self._address_of(self.queues.queue_for(settings.task.default_queue), None, None, None, None)

    @property
    def plain(self) -> bool:
        """Whether there are no rules, so that only options and defaults decide."""
        return not self._rules

    def route(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], task: Any = None
    ) -> dict[str, Any]:
        """Return `options` merged over the route of the task `name` in `task_routes`.

        `task` is None for a task unknown in this process.
        """
        for rule in self._rules:
            found = rule(name, args, kwargs, options, task)
            if found:
                route = found if isinstance(found, Mapping) else {"queue": found}
                merged = dict(still_valid(route, options))
                merged.update((key, value) for key, value in options.items() if value is not None)
                return merged
        return dict(options)

    def queue_for(self, name: str) -> Queue:
        """Return the queue `name`. Raises `QueueNotFound`."""
        return self.queues.queue_for(name)

    def address(self, options: Mapping[str, Any]) -> Destination:
        """Return the address of a message with these options: queue, exchange, routing_key, …."""
        queue = options.get("queue")
        exchange = options.get("exchange")
        key = options.get("routing_key")
        kind = options.get("exchange_type")
        mode = options.get("delivery_mode")
        if queue is None and exchange is None and key is None and kind is None and mode is None:
            return self._default
        if key is not None:
            check_name("routing key", key)
        if queue is not None:
            return self._address_of(self.queues.given(queue), exchange, key, kind, mode)
        if exchange is None:
            chosen = self.queue_for(self._settings.default_queue)
            if not key:
                return self._address_of(chosen, None, None, kind, mode)
            exchange = chosen.exchange
        name: Any = getattr(exchange, "name", exchange)
        check_name("exchange", name)
        bound = self.queues.bound_to(name)
        if bound and exchange == name:
            exchange = bound[0].exchange
        if not key and len(bound) == 1 and bound[0].exchange.type == "direct":
            key = bound[0].routing_key
        return self._address_of(None, exchange, key, kind, mode)._replace(declare=bound)

    def _address_of(self, queue: Queue | None, exchange: Any, key: Any, kind: Any, mode: Any) -> Destination:
        kind, mode = self._kind_and_mode(queue, exchange, kind, mode)
        declare = () if queue is None else (queue,)
        if exchange is not None:
            exchange = getattr(exchange, "name", exchange)
            check_name("exchange", exchange)
        if kind == "direct" and queue is not None and not (exchange and key):
            return Destination("", queue.name, kind, queue, mode, declare)
        if exchange is None:
            exchange = self._exchange_of(queue)
        return Destination(exchange, key or self._key_of(queue, kind), kind, queue, mode, declare)

    def _kind_and_mode(self, queue: Queue | None, exchange: Any, kind: Any, mode: Any) -> tuple[str, int]:
        """Return exchange type and delivery mode: those of the call, else of its exchange, else of its queue."""
        if exchange is not None and not isinstance(exchange, str):
            kind, mode = kind or exchange.type, mode or exchange.delivery_mode
        if queue is not None:
            kind, mode = kind or queue.exchange.type, mode or queue.exchange.delivery_mode
        return kind or "direct", _delivery_mode(mode) or self._settings.default_delivery_mode

    def _exchange_of(self, queue: Queue | None) -> str:
        own = "" if queue is None else queue.exchange.name
        return own or self._settings.default_exchange or self._settings.default_queue

    def _key_of(self, queue: Queue | None, kind: str) -> str:
        own = "" if queue is None else queue.routing_key
        return own or self._settings.default_routing_key or ("" if kind == "fanout" else self._settings.default_queue)


def _delivery_mode(mode: Any) -> int | None:
    if mode is None or isinstance(mode, int):
        return mode
    if mode in ("transient", "persistent"):
        return 1 if mode == "transient" else 2
    raise ConfigError(f"delivery_mode must be 1 (transient) or 2 (persistent), not {mode!r}")


def _rules(routes: Any) -> Iterable[Any]:
    if routes is None:
        return ()
    if isinstance(routes, (list, tuple)):
        # A list of rules, or of (pattern, route) pairs, which are one ordered map.
        return (routes,) if all(map(_is_pair, routes)) else [[one] if _is_pair(one) else one for one in routes]
    return (routes,)


def _is_pair(rule: Any) -> bool:
    return isinstance(rule, (list, tuple)) and len(rule) == 2 and isinstance(rule[0], (str, re.Pattern))


def _rule(rule: Any) -> Rule:
    if isinstance(rule, str):
        rule = _imported(rule)
    if isinstance(rule, Mapping):
        return _Map(rule.items())
    if isinstance(rule, (list, tuple)):
        return _Map(rule)
    if hasattr(rule, "route_for_task"):
        method = rule.route_for_task
        return lambda name, args, kwargs, options, task: method(name, args, kwargs)
    if callable(rule):
        # As Celery calls routers, which may take `task` as a keyword.
        return lambda name, args, kwargs, options, task: rule(name, args, kwargs, dict(options), task=task)
    raise ConfigError(f"routes under [task] must be a table, a function, or a list of them, not {rule!r}")


def _imported(path: str) -> Any:
    module, _, attribute = path.replace(":", ".").rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"the router {path!r} under [task] routes cannot be imported: {error}") from error


class _Map:
    """Routes by pattern: exact names first, then globs and regular expressions in their order."""

    def __init__(self, items: Iterable[tuple[Any, Any]]) -> None:
        self._exact: dict[str, Route] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        for pattern, route in items:
            target = {"queue": route} if isinstance(route, str) else route
            if not isinstance(target, Mapping):
                raise ConfigError(
                    f"the route of {pattern!r} under [task] must be a queue's name or a table such as "
                    f"{{queue = …}}, not {route!r}"
                )
            if isinstance(pattern, re.Pattern):
                self._patterns.append((pattern, target))
            elif any(wild in pattern for wild in "*?["):
                self._patterns.append((re.compile(fnmatch.translate(pattern)), target))
            else:
                self._exact[pattern] = target

    def __call__(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], task: Any
    ) -> Route | None:
        found = self._exact.get(name)
        if found is not None:
            return found
        for pattern, route in self._patterns:
            if pattern.match(name):
                return route
        return None


def worker_direct(node: str) -> Queue:
    """Return the queue that only the worker `node` consumes, for the setting `worker_direct`."""
    return Queue(name=f"{node}.dq2", exchange=Exchange(name="C.dq2"), routing_key=node)


def select_queues(
    settings: Settings, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
) -> list[Queue]:
    """Return the queues to consume from: all defined ones or those of `include`, without those of `exclude`.

    Raises `QueueNotFound` when one of `include` is not defined and may not be created.
    """
    queues = Queues(settings.task)
    names = list(queues)
    if include:
        names = list(dict.fromkeys(include))
        for name in names:
            try:
                queues.queue_for(name)
            except QueueNotFound:
                raise QueueNotFound(
                    f"Trying to select queue subset of {names!r}, but queue {name!r} isn't defined "
                    "in the task_queues setting."
                ) from None
            except ValueError as error:
                raise ConfigError(str(error)) from error
    excluded = set(exclude or ())
    chosen = [queues[name] for name in names if name not in excluded]
    if not chosen:
        raise QueueNotFound(f"no queue is left to consume from: {', '.join(names)} are all excluded")
    return chosen
