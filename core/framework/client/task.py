"""Tasks: functions that can be called by message.

1. `Task` is the result of `App.task`, and the base of task classes: it calls, sends, retries and replaces.
2. `Task.request` is the `Context` of the running call.
3. `Task.policy` holds the attributes that the worker's main process uses, see `TaskPolicy`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NoReturn, ParamSpec, TypeVar, cast

from framework.api.result_store import Record
from framework.client.canvas import Signature, chunks, xmap, xstarmap
from framework.client.current import find_app
from framework.client.publisher import in_event_loop, publish_until_accepted
from framework.client.request import Context, current_request, parent_request, pop_request, push_request
from framework.client.results import AsyncResult
from framework.client.task_policy import TaskPolicy, annotate, resolve
from framework.client.workflow import replacing
from framework.exceptions import FrameworkError, Ignore, MaxRetriesExceededError, Reject, Retry, TransportError
from framework.wire.result_document import Documents

if TYPE_CHECKING:
    from framework.client.app import App
    from framework.client.results import EagerResult

__all__ = ["Context", "Task", "TaskPolicy", "current_request", "pop_request", "push_request"]

P = ParamSpec("P")
R = TypeVar("R")
#: `Task.Retry` hides the name inside the class.
_Retry = Retry


class Task(Generic[P, R]):
    """A task. `P` are the parameters of its function, `R` is its return type.

    Class-based tasks subclass it and define `run`; `App.task(base=…)` makes a task from such a class and a function.
    Attributes that are None take the value of the setting of that name under ``[task]``. Times are in seconds.
    """

    name: str = ""
    #: The application of the task.
    app: App
    #: Whether the function gets the task as its first argument.
    bind: ClassVar[bool] = False
    #: Check arguments against the function's signature when the task is sent.
    typing: bool = True

    # ------------------------------------------------ delivery
    acks_late: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    reject_on_worker_lost: bool | None = None
    retry_on_worker_lost: bool | None = None
    #: The action after each end: failure, soft_timeout, hard_timeout, worker_lost, shutdown to ack, requeue, retry or
    #: dead-letter. It overrides the attributes above.
    ends: Mapping[str, str] | None = None
    max_deliveries: int | None = None

    # ------------------------------------------------ limits
    rate_limit: str | float | None = None
    #: ``worker``: the limit is for each worker; ``cluster``: for all workers together.
    rate_limit_scope: Literal["worker", "cluster"] | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    #: Retries after which `retry` gives up; None: never.
    max_retries: int | None = 3
    default_retry_delay: float = 180.0
    #: Expected exceptions, which are logged without a traceback.
    throws: tuple[type[BaseException], ...] = ()

    # ------------------------------------------------ results
    ignore_result: bool | None = None
    store_errors_even_if_ignored: bool | None = None
    track_started: bool | None = None
    #: Whether workers send events about it.
    send_events: bool = True
    #: Whether the tasks that it sends are recorded as its children.
    trail: bool = True
    resultrepr_maxsize: int = 1024
    backend: Any = None

    # ------------------------------------------------ sending
    queue: str | None = None
    exchange: str | None = None
    exchange_type: str | None = None
    routing_key: str | None = None
    priority: int | None = None
    expires: float | datetime | None = None
    serializer: str | None = None
    compression: str | None = None
    delivery_mode: int | str | None = None

    # So that a task need not import the exceptions.
    MaxRetriesExceededError = MaxRetriesExceededError
    Retry = Retry
    Ignore = Ignore
    Reject = Reject

    #: For the check of `typing`: ``(signature, fewest, most positional arguments)``; computed at the first call.
    _shape: tuple[inspect.Signature, int, int] | None = None
    _policy: tuple[object, TaskPolicy] | None = None
    #: The function without the wrapper of `autoretry_for`.
    __wrapped__: Callable[..., Any]

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The function of the task: a subclass defines it, or it is the decorated function."""
        raise NotImplementedError(f"the task {self.name or type(self).__name__} must define run()")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in this process, without a message.

        A subclass's `__call__` that calls this one, for a message or an eager run, keeps the running request.
        """
        request = current_request()
        if request is not None and type(self).__call__ is not Task.__call__ and request.awaits_call_of(self.name):
            return cast("R", _run_in_call(request, self.run, args, kwargs))
        token = push_request(Context({"task": self.name}, list(args), kwargs, app=getattr(self, "app", None)))
        try:
            return cast("R", self.run(*args, **kwargs))
        finally:
            pop_request(token)

    @property
    def request(self) -> Context:
        """The request of the running call, or an empty one."""
        request = current_request()
        if request is not None and request.task == self.name:
            return request
        return Context({"task": self.name})

    @property
    def policy(self) -> TaskPolicy:
        """Its policy for delivery, limits and results: its attributes, else the settings."""
        settings = self.app.conf.settings
        if self._policy is None or self._policy[0] is not settings:
            annotate(self, settings.task.annotations)
            self._policy = (settings, resolve(self, settings.task))
        return self._policy[1]

    @policy.setter
    def policy(self, policy: TaskPolicy) -> None:
        # Set by remote control, until the settings change.
        self._policy = (self.app.conf.settings, policy)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send the task with these arguments."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        *,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        add_to_parent: bool = True,
        **options: Any,
    ) -> AsyncResult[R]:
        """Send the task.

        `options`: countdown (s), eta, expires (s or datetime), queue, exchange, routing_key, priority, serializer,
        compression, headers, ignore_result, time_limit, soft_time_limit, retry, retry_policy, …. `link` and
        `link_error` are signatures to call after success and failure. Raises `TypeError` when the arguments do not fit
        the function, `TransportError` when the broker does not accept the message.
        """
        positional = () if args is None else sequence(args)
        named = {} if kwargs is None else dict(kwargs) if isinstance(kwargs, Mapping) else _named_arguments(kwargs)
        if self.typing:
            self.check_arguments(positional, named)
        app = self.app
        sender = app.sender
        if sender.settings.task.always_eager:
            return self.apply(positional, named, task_id=task_id, link=link, link_error=link_error, **options)
        if link is not None:
            options["link"] = link
        if link_error is not None:
            options["link_error"] = link_error
        if shadow is not None:
            options["shadow"] = shadow
        if task_id is not None:
            options["task_id"] = task_id
        parent = parent_request()
        result: AsyncResult[R] = app.send_one(self.name, self, positional, named, options, parent)
        if parent is not None and add_to_parent:
            parent.add_child(result)
        return result

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """As `delay`, from a coroutine: it sends in a thread and does not block the event loop."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """As `apply_async`, from a coroutine: it sends in a thread and does not block the event loop."""
        import asyncio  # here: most programs do not need it

        return await asyncio.to_thread(self.apply_async, args, kwargs, task_id, **options)

    @property
    def shape(self) -> tuple[inspect.Signature, int, int]:
        """The signature of its function, and the fewest and most arguments that it takes by position."""
        shape = self._shape
        if shape is None:
            shape = self._shape = _shape_of(self)
        return shape

    def check_arguments(self, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Raise `TypeError` when the function does not accept these arguments."""
        signature, fewest, most = self.shape
        if not kwargs and fewest <= len(args) <= most:
            return
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}() cannot be called: {error} (its parameters are {signature})") from None

    def AsyncResult(self, task_id: str, **options: Any) -> AsyncResult[R]:  # noqa: N802 - Celery's name
        """Return the result of the call `task_id`."""
        return AsyncResult(task_id, app=self.app, task_name=self.name, **options)

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Return a signature with these arguments."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """As `s`, for a signature that takes no arguments from a preceding task."""
        return self.signature(args, kwargs, immutable=True)

    def signature(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Signature[R]:
        """Return a signature with options."""
        return Signature(self, args, kwargs, **options)

    subtask = signature

    def map(self, it: Iterable[Any]) -> Signature[list[R]]:
        """Return a signature that calls the task with each item, in one message."""
        return xmap(self, it, app=self.app)

    def starmap(self, it: Iterable[Any]) -> Signature[list[R]]:
        """As `map`, with each item unpacked: ``add.starmap([(1, 2), (3, 4)])``."""
        return xstarmap(self, it, app=self.app)

    def chunks(self, it: Iterable[Any], n: int) -> Signature[Any]:
        """Return a signature of `starmap`s of `n` items each, sent as a group."""
        return chunks(self, it, n, app=self.app)

    def apply(
        self, args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[R]:
        """Run the task in this process, with retries, without a broker; `throw`: raise its exception."""
        from framework.client.eager import run_eagerly  # here: it imports asyncio

        return run_eagerly(self, tuple(args or ()), dict(kwargs or {}), options)

    def retry(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> _Retry:
        """Send the running call again and end this run: ``raise self.retry(exc=error)``.

        The new message has the same id and queue, and runs after `countdown` seconds (default `default_retry_delay`) or
        at `eta`. Raises `Retry` (or returns it, if not `throw`); after `max_retries` retries `exc`, or else
        `MaxRetriesExceededError`; `TransportError` when the message cannot be sent.
        """
        request = self.request
        if request.called_directly:
            if exc is not None:
                raise exc
            raise Retry(
                f"{self.name} was called as a function, so it has no message to send again: "
                "send it with delay() or apply_async(), or run it with apply()"
            )
        limit = self.max_retries if max_retries is None else max_retries
        retries = request.retries + 1
        if limit is not None and retries > limit:
            self._give_up(request, exc)
        if eta is None and countdown is None:
            countdown = self.default_retry_delay
        call_args, call_kwargs = self._changed_call(request, args, kwargs)
        changes = {**options, "retries": retries, "countdown": countdown, "eta": eta}
        again = self.signature(call_args, call_kwargs, task_id=request.id, **changes)
        error = Retry(exc=exc, when=countdown if eta is None else eta, is_eager=request.is_eager, sig=again)
        if not request.is_eager:
            self._send_again(request, {**changes, "args": call_args, "kwargs": call_kwargs})
        if throw:
            raise error from exc
        return error

    def _changed_call(
        self, request: Context, args: Iterable[Any] | None, kwargs: Mapping[str, Any] | None
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of the running call, with `args` and `kwargs` in the place of what they name."""
        new_args = list(request.args if args is None else args)
        new_kwargs = dict(request.kwargs if kwargs is None else kwargs)
        if (args is None) is not (kwargs is None):
            for place, name in enumerate(self._names()[: len(new_args)]):
                if name in new_kwargs:
                    named = new_kwargs.pop(name)
                    if args is None:
                        new_args[place] = named
        return new_args, new_kwargs

    def _names(self) -> list[str]:
        """Return the names of the parameters that take arguments by position and by name."""
        parameters = self.shape[0].parameters.values()
        return [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]

    def _give_up(self, request: Context, exc: BaseException | None) -> NoReturn:
        if exc is not None:
            raise exc
        raise MaxRetriesExceededError(
            f"Can't retry {self.name}[{request.id}] args:{tuple(request.args)} kwargs:{request.kwargs}",
            task_args=request.args,
            task_kwargs=request.kwargs,
        )

    def _send_again(self, request: Context, changes: dict[str, Any]) -> None:
        sender = self.app.sender
        message, address = sender.retry_of(request, changes, self)
        try:
            with publish_until_accepted():
                sender.send(self.name, message, address, changes)
        except TransportError as error:
            if error.temporary and in_event_loop():
                # Nothing may wait here: the worker sends it at the end of this run.
                request.unsent = (*request.unsent, partial(sender.send, self.name, message, address, changes))
            elif self.policy.acks_late:
                # The message is still unacknowledged: requeuing it loses nothing.
                raise Reject(error, requeue=True) from error
            else:
                raise
        if request.id is not None:
            request.add_child(AsyncResult(request.id, app=self.app))

    def replace(self, sig: Signature[Any]) -> NoReturn:
        """Run `sig` instead of the running call, with the same id, callbacks and place in a workflow.

        The result of a group is the list of its results, which needs a result store that can count chords.
        Raises `Ignore`, which ends this run without a result.
        """
        replacing.replace(self, self.request, sig)

    def add_to_chord(self, sig: Signature[Any], lazy: bool = False) -> Any:
        """Add `sig` to the chord header of the running call, and send it unless `lazy`.

        Returns its result, or with `lazy` the signature. Raises `ValueError` outside of a header.
        """
        return replacing.add_to_chord(self, self.request, sig, lazy)

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **_more: Any
    ) -> None:
        """Store `state` with `meta` as the result of the running call (or of `task_id`)."""
        request = self.request
        ident = task_id or request.id
        if ident is None or state is None:
            raise ValueError("update_state needs a state, and outside a running task also a task_id")
        store = self.app.result_store
        if request.is_eager or not store.traits.stores:
            return
        documents = Documents.of(self.app.conf.settings.result)
        if ident == request.id:
            document = documents.build_for(state, meta, request, request.hostname)
        else:
            document = documents.build(state, meta, ident)
        store.store([Record(ident, document, state, request.reply_to, request.correlation_id or ident)])

    # Handlers for subclasses, called in the process of the task. `einfo` is the traceback as text, with the attributes
    # `exception`, `type`, `traceback` (the text) and `tb`.

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called before `run`."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called when the task has returned."""

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the task will be retried."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the task has raised."""

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the task has succeeded or failed, but not after `Retry`, `Ignore` and `Reject`."""

    def __repr__(self) -> str:
        return f"<@task: {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _named, (self.name,)


def _run_in_call(request: Context, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    request.in_call = True
    try:
        value = run(*args, **kwargs)
    finally:
        request.in_call = False
    return _await_in_call(request, value) if inspect.iscoroutine(value) else value


async def _await_in_call(request: Context, coroutine: Coroutine[Any, Any, Any]) -> Any:
    request.in_call = True
    try:
        return await coroutine
    finally:
        request.in_call = False


def called_by_message(task: Task[P, R]) -> Callable[P, R]:
    """Return what a message for `task` calls: the task if its class defines `__call__`, else its function."""
    return task if type(task).__call__ is not Task.__call__ else task.run


def retry_without_message(error: Retry) -> FrameworkError:
    """Return the failure of a task that raised `error` without a message: its end as a retry would lose the task."""
    failure = FrameworkError(f"the task raised Retry, but no message was sent: raise self.retry() instead ({error})")
    failure.__cause__ = error
    return failure.with_traceback(error.__traceback__)


def _named(name: str) -> Any:
    return find_app().tasks[name]


def sequence(args: Any) -> Sequence[Any]:
    """Return positional arguments as a list or tuple. Raises `TypeError` for a string, a mapping or a non-iterable."""
    if isinstance(args, (tuple, list)):
        return args
    if isinstance(args, (str, bytes, Mapping)) or not isinstance(args, Iterable):
        raise TypeError(f"the arguments of a task must be a list or tuple, not {args!r:.100}")
    return tuple(args)


def _named_arguments(kwargs: Any) -> dict[str, Any]:
    raise TypeError(f"the keyword arguments of a task must be a mapping, not {kwargs!r:.100}")


def _shape_of(task: Task[..., Any]) -> tuple[inspect.Signature, int, int]:
    signature = inspect.signature(task.run)
    fewest = most = 0
    for parameter in signature.parameters.values():
        required = parameter.default is parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = 1 << 30
        elif parameter.kind is parameter.KEYWORD_ONLY and required:
            fewest = 1 << 31  # positional arguments never suffice: the full check names the missing one
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            fewest += required
    return signature, fewest, most
