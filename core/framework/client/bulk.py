"""Bulk sending: the work of `App.send_many`.

1. Turns a task with arguments, or signatures, into `Call`s.
2. Builds and publishes them in chunks, so that memory stays bounded for any number of calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from framework.client.call_options import KNOWN, check, still_valid
from framework.client.results import AsyncResult
from framework.client.task import Task
from framework.wire.identity import new_ids

if TYPE_CHECKING:
    from framework.api.transport import Queue
    from framework.client.app import App
    from framework.client.canvas import Signature
    from framework.client.request import Context
    from framework.client.routing import Destination
    from framework.message import Outgoing

#: The largest number of messages that a transport publishes at a time.
CHUNK: Final = 10_000

#: Task (None: unknown in this process), name, args, kwargs, options.
Call: TypeAlias = tuple[Task[..., Any] | None, str, Any, Any, dict[str, Any]]


def send_many(
    app: App, calls: object, arguments: Iterable[Iterable[Any]] | None, options: dict[str, Any], parent: Context | None
) -> list[AsyncResult[Any]]:
    """Send the calls of `App.send_many`, as children of `parent` unless that is None; return the results."""
    if not KNOWN.issuperset(options):
        check(options, parent is not None)
    pairs = _calls(calls, arguments, options)
    results: list[AsyncResult[Any]] = []
    while chunk := list(islice(pairs, CHUNK)):
        results += _send(app, chunk, parent, options)
    return results


def _calls(calls: Any, arguments: Iterable[Iterable[Any]] | None, options: dict[str, Any]) -> Iterator[Call]:
    if isinstance(calls, tuple) and len(calls) == 2 and isinstance(calls[0], Task):
        calls, arguments = calls
    if isinstance(calls, Task):
        return ((calls, calls.name, tuple(args), {}, options) for args in arguments or ())
    return (_call(signature, options) for signature in cast("Iterable[Signature[Any]]", calls))


def _call(signature: Signature[Any], options: dict[str, Any]) -> Call:
    own = signature["options"]
    return (
        signature.type,
        signature["task"],
        signature["args"],
        signature["kwargs"],
        {**still_valid(own, options), **options} if options else own,
    )


def _send(
    app: App, chunk: Sequence[Call], parent: Context | None, options: Mapping[str, Any]
) -> list[AsyncResult[Any]]:
    sender = app.sender
    if sender.settings.task.always_eager:
        return [(task or app.tasks[name]).apply(args, kwargs, **own) for task, name, args, kwargs, own in chunk]
    messages: list[Outgoing] = []
    queues: dict[str, Queue] = {}
    results: list[AsyncResult[Any]] = []
    wanted: list[str] = []
    sent: list[tuple[str, Outgoing, Destination]] = []
    ids = iter(new_ids(len(chunk)))
    for task, name, args, kwargs, own in chunk:
        if task is not None and task.typing:
            task.check_arguments(args, kwargs)
        plan = sender.plan(name, task)
        if not own and plan.plain:
            task_id = next(ids)
            message = sender.messages.build_plain(plan, task_id, args, kwargs, parent)
            address = plan.address
            assert address is not None
        else:
            task_id = own.get("task_id") or next(ids)
            message, address = sender.messages.build(plan, task_id, args, kwargs, own, parent)
        for queue in address.declare:
            queues[queue.name] = queue
        if sender.before is not None:
            sender.before(name=name, message=message)
        messages.append(message)
        if sender.sent_events is not None:
            sent.append((name, message, address))
        ignored = message.headers.get("ignore_result") is True
        if not ignored:
            wanted.append(task_id)
        results.append(AsyncResult(task_id, app=app, task_name=name, ignored=ignored))
    publisher = sender.publisher
    publisher.expect(wanted, inside_task=parent is not None)
    publisher.publish(messages, queues.values(), options.get("retry"), options.get("retry_policy"))
    if sender.after is not None:
        for (_task, name, *_), message in zip(chunk, messages, strict=True):
            sender.after(name=name, message=message)
    if sender.sent_events is not None:
        sender.sent_events.send(sent)
    return results
