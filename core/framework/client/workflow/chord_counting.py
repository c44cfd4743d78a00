"""Chord counting, in the process of each task of a header: the last result sends the body.

1. `conclude` stores the result of a member and counts it; it tries again until the store and the broker accept.
2. The process that completes the header gets the *turn*: it reads all results, sends the body with them and ends the
   chord. The turn of a process that has died lapses; the next one that counts a part, even a counted one, gets it.
3. A failed member fails the body: `fail` stores a `ChordError` for all tasks that will never run, counts it for outer
   chords, and calls the error callbacks. `fail_rest` does the first two for the rest of a chain.

Source: section 6 of the wire protocol.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from traceback import format_exception
from typing import TYPE_CHECKING, Any, Final

from framework.api.result_store import ChordPart, Record, Turn
from framework.client.canvas import Signature
from framework.client.canvas.documents import FrozenTask, Member, failing_parts, frozen_tasks
from framework.client.canvas.errbacks import errback_calls
from framework.client.publisher import is_temporary, pauses, wait
from framework.client.request import Context
from framework.exceptions import ChordError, FrameworkError, MessageError, TransportError
from framework.wire.exception_document import decode_exception, encode_exception
from framework.wire.identity import new_id
from framework.wire.result_document import FAILURE, Documents
from framework.wire.serialization import decode_stored, encode

if TYPE_CHECKING:
    from framework.api.result_store import ResultStore
    from framework.client.app import App

logger = logging.getLogger(__name__)

#: Seconds between two attempts to get the turn while another process has it.
_TURN_INTERVAL: Final = 0.25
_FAILED: Final = frozenset({"FAILURE", "REVOKED"})


def conclude(app: App, member: Member, state: str, result: Any, record: Record | None = None) -> None:
    """Store `record`, the result of `member`, and count it; if it is the last one, send the body.

    Tries until that succeeds; only an asynchronous exception ends it.
    """
    token = new_id().replace("-", "")
    waits: Iterator[float] | None = None
    while True:
        try:
            if record is not None:
                app.result_store.store([record])
                record = None
            turn = count(app, member, state, result, token)
        except TransportError as error:
            if not error.temporary:
                raise
            if waits is None:
                logger.warning("Task %s of a chord waits until its result can be counted: %s", member.task_id, error)
                waits = pauses()
            wait(next(waits))
            continue
        if turn is not Turn.TAKEN:
            return
        # This part was counted before, so the task has run for a second time, perhaps because the process with the turn
        # has died. Then the turn lapses.
        wait(_TURN_INTERVAL)


def count(app: App, member: Member, state: str, result: Any, token: str) -> Turn:
    """Count `member` once; if it completes the header and gets the turn, send the body. Raises `TransportError`."""
    store = app.result_store
    if not store.traits.chords:
        logger.error(
            "The body of the chord of task %s will never run: the result store %s cannot count chords",
            member.task_id,
            store.display_url,
        )
        return Turn.OVER
    settings = app.conf.settings.result
    if isinstance(result, BaseException):
        result = encode_exception(result, settings.serializer)
    value = encode([1, member.task_id, state, result], settings.serializer)[2]
    claim = max(5.0, 2 * settings.chord_join_timeout)
    turn = store.return_part(ChordPart(member.group_id, member.task_id, member.place, value), token, claim)
    if turn is Turn.OVER:
        logger.info(
            "Task %s does not complete the chord %s: it has ended, or the number of its tasks is not known yet",
            member.task_id,
            member.group_id,
        )
    if turn is Turn.MINE:
        _finish(app, store, member, token, claim)
    return turn


def _finish(app: App, store: ResultStore, member: Member, token: str, claim: float) -> None:
    group_id = member.group_id
    try:
        values = _values(app, store, group_id)
        body = Signature.from_dict(member.body, app)
    except (FrameworkError, MessageError) as error:
        if is_temporary(error):
            raise
        _give_up(app, store, member, error)
        return
    # A slow broker may delay the sending.
    if not store.hold_turn(group_id, token, claim + _sending_time(app)):
        logger.warning("The turn to send the body of chord %s has lapsed: another process sends it", group_id)
        return
    options: dict[str, Any] = {"parent_id": member.task_id, "root_id": member.root_id or member.task_id}
    try:
        body.apply_async((values,), **options, add_to_parent=False)
    except Exception as error:  # body and results come from messages, so any error is possible
        if is_temporary(error):
            raise
        _give_up(app, store, member, ChordError(f"Callback error: {error!r}"))
        return
    if not store.end_chord(group_id, token, max(2 * claim, 300.0)):
        logger.warning("The turn for chord %s has lapsed while its body was sent: it may be sent twice", group_id)


def _sending_time(app: App) -> float:
    """Return roughly the longest time to publish one message, in seconds."""
    policy = app.conf.settings.task.publish_retry_policy
    return 10.0 + (policy.max_retries or 0) * float(policy.interval_max)


def _give_up(app: App, store: ResultStore, member: Member, error: Exception) -> None:
    logger.error("The chord %s fails: %s", member.group_id, error)
    fail(app, member.body, error, member.root_id)
    store.fail_chord(member.group_id)


def _values(app: App, store: ResultStore, group_id: str) -> list[Any]:
    """Return the results of the header. Raises `ChordError` when one has failed."""
    ordered: list[Any] = []
    by_id: dict[str, Any] = {}
    for raw in store.chord_parts(group_id):
        _one, task_id, state, value = _decode(app, raw)
        if state in _FAILED:
            cause = decode_exception(value)
            raise ChordError(f"Dependency {task_id} raised {cause!r}") from cause
        ordered.append(value)
        by_id[str(task_id)] = value
    saved = store.fetch_group(group_id)
    if saved is None:
        return ordered
    # A Celery client has sent a header with inner groups: the results get the header's shape.
    members = _decode(app, saved)["result"][1] or ()
    missing = [task_id for task_id in _leaves(members) if task_id not in by_id]
    if missing:
        by_id.update(_fetch(app, store, missing))
    return [_shaped(one, by_id) for one in members]


def _decode(app: App, raw: bytes) -> Any:
    settings = app.conf.settings
    return decode_stored(raw, settings.result.serializer, settings.result.accept_content or settings.accept_content)


def _leaves(members: Sequence[Any]) -> list[str]:
    found = []
    for (task_id, _parent), below in members:
        found.extend([str(task_id)] if below is None else _leaves(below))
    return found


def _shaped(one: Any, by_id: Mapping[str, Any]) -> Any:
    (task_id, _parent), below = one
    return by_id[str(task_id)] if below is None else [_shaped(each, by_id) for each in below]


def _fetch(app: App, store: ResultStore, task_ids: list[str]) -> dict[str, Any]:
    """Return results that were stored, but not counted as parts."""
    found = {}

    def is_final(raw: bytes) -> bool:
        return _decode(app, raw).get("status") in ("SUCCESS", *_FAILED)

    for task_id, raw in store.wait(task_ids, app.conf.settings.result.chord_join_timeout, is_final):
        document = _decode(app, raw)
        if document["status"] in _FAILED:
            cause = decode_exception(document["result"])
            raise ChordError(f"Dependency {task_id} raised {cause!r}") from cause
        found[task_id] = document["result"]
    return found


def fail_all(
    app: App,
    tasks: Sequence[FrozenTask],
    error: BaseException,
    trace: str | None = None,
    children: Mapping[str | None, list[Any]] | None = None,
) -> None:
    """Store `error` as the result of `tasks`, with `children` by task id, and count it for their chords."""
    store = app.result_store
    if not tasks or not store.traits.stores:
        return
    result = app.conf.settings.result
    documents = Documents(result.serializer, result.compression)
    sent = children or {}

    def build(one: FrozenTask) -> bytes:
        return documents.build(
            FAILURE, error, one.task_id, traceback=trace, group_id=one.group_id, children=sent.get(one.task_id)
        )

    store.store([Record(one.task_id, build(one), FAILURE, one.reply_to, one.task_id) for one in tasks])
    for one in tasks:
        if one.member is not None:
            count(app, one.member, FAILURE, error, new_id().replace("-", ""))


def fail(app: App, body: Mapping[str, Any], error: BaseException, root_id: str | None = None) -> None:
    """Fail the body of a chord and the tasks after it with `error`; call its error callbacks.

    A body with several results, a group, fails with the error of the header, as in Celery.
    """
    trace = "".join(format_exception(error))
    parts = failing_parts(body)
    if not any(part is body for part, _errbacks in parts):
        error = error.__cause__ or error
    calls: list[Callable[[], object]] = []
    children: dict[str | None, list[Any]] = {}
    for part, errbacks in parts:
        request = _request(app, part, errbacks, root_id)
        try:
            calls += errback_calls(app, request, error, trace)
        except FrameworkError as failed:
            _report_uncalled(failed)
        children[request.id] = request.children_as_tuples()
    fail_all(app, frozen_tasks(body), error, trace, children)
    for call in calls:
        try:
            call()
        except Exception as failed:  # error callbacks come from a message, so any error is possible
            if is_temporary(failed):
                raise
            _report_uncalled(failed)


def _report_uncalled(failed: Exception) -> None:
    logger.error("An error callback of the body of a chord was not called: %s", failed)


def _request(app: App, part: Mapping[str, Any], errbacks: list[Any], root_id: str | None) -> Context:
    """Return the request of a part of a body that will never run, with those of `errbacks` that are to be called."""
    # Celery's clients link an error callback of a chord to the chords in its header, too: the outermost one calls it.
    members = [one.member for one in frozen_tasks(part) if one.member is not None]
    outer = [errback for member in members for _part, linked in failing_parts(member.body) for errback in linked]
    last = frozen_tasks({**part, "options": {**(part.get("options") or {}), "chain": None}})
    return Context(
        {"id": last[-1].task_id if last else None, "task": part.get("task"), "root_id": root_id},
        list(part.get("args") or ()),
        dict(part.get("kwargs") or {}),
        {"errbacks": [errback for errback in errbacks if errback not in outer]},
        app=app,
        called_directly=False,
    )


def fail_rest(app: App, request: Context, error: BaseException, trace: str | None = None) -> None:
    """Store `error` for the rest of the chain of `request`, next task first, and count it for their chords."""
    for element in reversed(request.chain or ()):
        fail_all(app, frozen_tasks(element), error, trace)
