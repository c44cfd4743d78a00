"""`Context`: the request of a running task.

1. A `Context` keeps the message and looks up its fields on demand: most tasks use none.
2. `current_request` is that of the running task in this thread, greenlet or asyncio task; it is a `ContextVar`.
3. `add_child` records a task that the running one has sent, for the result document.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Final

from framework.wire.serialization import decode_task

if TYPE_CHECKING:
    from framework.client.app import App
    from framework.message import Incoming

_EMPTY: Final[dict[str, Any]] = {}

#: Headers that belong to the protocol; all others are `Context.headers`.
PROTOCOL_HEADERS: Final = frozenset(
    {
        "lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id",
        "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers",
        "stamps", "compression", "meth", "redelivered", "deliveries", "handed_back",
    }
)  # fmt: skip


class Context:
    """The request of a task: `id`, `args`, `retries`, …; a field that the sender has not set is None.

    The worker makes one for each message, `Task.apply` for an eager run, and a plain call of the function an empty one.
    Other attributes may be set freely.
    """

    #: Whether `Task.__call__` runs the function of this request; set only where a subclass defines `__call__`.
    in_call = False

    __slots__ = (
        "__dict__", "_app", "_args", "_children", "_embed", "_incoming", "_kwargs", "_properties", "_raw",
        "called_directly", "hostname", "is_eager", "unsent",
    )  # fmt: skip

    if TYPE_CHECKING:
        id: str | None
        task: str | None
        shadow: str | None
        eta: str | None
        expires: str | float | None
        group: str | None
        group_index: int | None
        retries: int
        root_id: str | None
        parent_id: str | None
        argsrepr: str | None
        kwargsrepr: str | None
        origin: str | None
        ignore_result: bool | None
        replaced_task_nesting: int
        stamped_headers: list[str] | None
        stamps: dict[str, Any]
        timelimit: list[float | None]
        time_limit: float | None
        soft_time_limit: float | None
        lang: str | None
        args: list[Any]
        kwargs: dict[str, Any]
        callbacks: list[Any] | None
        errbacks: list[Any] | None
        chain: list[Any] | None
        chord: Any
        correlation_id: str | None
        reply_to: str | None
        delivery_info: dict[str, Any]
        headers: dict[str, Any]
        properties: dict[str, Any]
        children: list[Any]
        app: App | None
        utc: bool

    def __init__(
        self,
        headers: dict[str, Any] | None = None,
        args: Any = None,
        kwargs: Any = None,
        embed: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
        *,
        hostname: str | None = None,
        app: App | None = None,
        called_directly: bool = True,
        is_eager: bool = False,
        incoming: Incoming | None = None,
    ) -> None:
        """`headers` and `properties` are the message's; with `incoming`, missing `args` are decoded on demand."""
        self._raw = _EMPTY if headers is None else headers
        self._args = args
        self._kwargs = kwargs
        self._embed = embed
        self._properties = _EMPTY if properties is None else properties
        self._incoming = incoming
        self._app = app
        self._children: list[Any] | None = None
        self.hostname = hostname
        self.called_directly = called_directly
        self.is_eager = is_eager
        #: Functions that send what a coroutine could not wait to send; called when its run ends.
        self.unsent: tuple[Callable[[], object], ...] = ()

    @classmethod
    def from_incoming(
        cls,
        incoming: Incoming,
        app: App | None = None,
        args: list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        embed: dict[str, Any] | None = None,
        hostname: str | None = None,
    ) -> Context:
        """Return the context of a message, whose body is decoded on demand if `args` is None."""
        return cls(
            incoming.headers,
            args,
            kwargs,
            embed,
            incoming.properties,
            hostname=hostname,
            app=app,
            called_directly=False,
            incoming=incoming,
        )

    def __getattr__(self, name: str) -> Any:
        lookup = _FIELDS.get(name)
        if lookup is not None:
            return lookup(self)
        if name in self._raw:  # a custom header, as an attribute
            return self._raw[name]
        raise AttributeError(f"the request of a task has no field {name!r}")

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field `name`, or `default`."""
        return getattr(self, name, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set attributes."""
        self.__dict__.update(*args, **kwargs)

    def _decoded(self) -> None:
        """Decode the body. Raises `MessageError`."""
        incoming = self._incoming
        if self._args is not None or incoming is None:
            return
        accept, size = (None, None)
        if self._app is not None:
            settings = self._app.conf.settings
            accept, size = settings.accept_content, settings.task.max_message_size
        self._args, self._kwargs, self._embed = decode_task(incoming, accept=accept, max_size=size)
        self._raw = incoming.headers

    @property
    def encoding(self) -> tuple[str | None, str | None]:
        """The content type of the message and the MIME type of its compression; None: no message, or uncompressed."""
        return None if self._incoming is None else self._incoming.content_type, self._raw.get("compression")

    @property
    def raw_headers(self) -> dict[str, Any]:
        """All headers of the message. Read-only."""
        return self._raw

    def awaits_call_of(self, task: str) -> bool:
        """Whether a message or an eager run has called `task`, and the function of the task does not run yet."""
        return not self.in_call and not self.called_directly and self.task == task

    def add_child(self, result: Any) -> None:
        """Record the result of a task that this one has sent, unless its `trail` is off."""
        task = None if self._app is None else self._app.tasks.get(self.task or "")
        if task is not None and not task.trail:
            return
        if self._children is None:
            self._children = []
        self._children.append(result)

    def children_as_tuples(self) -> list[Any]:
        """Return the children in the form of the result document."""
        return [child.as_tuple() for child in self._children] if self._children else []

    def __repr__(self) -> str:
        return f"<Context: {self.task}[{self.id}]>"


def _header(name: str, default: Any = None) -> Callable[[Context], Any]:
    def lookup(context: Context) -> Any:
        value = context._raw.get(name)
        return default if value is None else value

    return lookup


def _embedded(name: str) -> Callable[[Context], Any]:
    def lookup(context: Context) -> Any:
        if context._embed is None:
            context._decoded()
        return (context._embed or _EMPTY).get(name)

    return lookup


def _args(context: Context) -> Any:
    context._decoded()
    if context._args is None:
        context._args = []
    return context._args


def _kwargs(context: Context) -> Any:
    context._decoded()
    if context._kwargs is None:
        context._kwargs = {}
    return context._kwargs


def _delivery_info(context: Context) -> dict[str, Any]:
    properties = context._properties
    info = properties.get("delivery_info") or _EMPTY
    return {
        "exchange": info.get("exchange"),
        "routing_key": info.get("routing_key"),
        "priority": properties.get("priority"),
        "redelivered": bool(info.get("redelivered") or context._raw.get("redelivered")),
    }


def _children(context: Context) -> list[Any]:
    if context._children is None:
        context._children = []
    return context._children


_FIELDS: Final[dict[str, Callable[[Context], Any]]] = {
    **{
        name: _header(name)
        for name in (
            "id", "task", "shadow", "eta", "expires", "group", "group_index", "root_id", "parent_id", "argsrepr",
            "kwargsrepr", "origin", "ignore_result", "stamped_headers", "lang",
        )
    },
    "time_limit": lambda context: context.timelimit[0],
    "soft_time_limit": lambda context: context.timelimit[1],
    # Obsolete fields of Celery that user code may still read.
    "loglevel": lambda context: None,
    "logfile": lambda context: None,
    "taskset": lambda context: context.group,
    "retries": _header("retries", 0),
    "replaced_task_nesting": _header("replaced_task_nesting", 0),
    "stamps": lambda context: context._raw.get("stamps") or {},
    "timelimit": lambda context: list(context._raw.get("timelimit") or (None, None)),
    "args": _args,
    "kwargs": _kwargs,
    "callbacks": _embedded("callbacks"),
    "errbacks": _embedded("errbacks"),
    "chain": _embedded("chain"),
    "chord": _embedded("chord"),
    "correlation_id": lambda context: context._properties.get("correlation_id"),
    "reply_to": lambda context: context._properties.get("reply_to"),
    "delivery_info": _delivery_info,
    "headers": lambda context: {
        name: value for name, value in context._raw.items() if name not in PROTOCOL_HEADERS
    },
    "properties": lambda context: context._properties,
    "children": _children,
    "app": lambda context: context._app,
    "utc": lambda context: True,
}  # fmt: skip


_current: ContextVar[Context | None] = ContextVar("framework_request", default=None)

#: Make a context the current one; `pop_request` takes the token.
push_request: Final[Callable[[Context | None], Token[Context | None]]] = _current.set
pop_request: Final[Callable[[Token[Context | None]], None]] = _current.reset
#: The context of the running task, or None.
current_request: Final[Callable[[], Context | None]] = _current.get


def parent_request() -> Context | None:
    """Return the request of the running task, whose messages are its children; None in a plain call."""
    context = _current.get()
    return None if context is None or context.called_directly else context
