"""Documents of signatures, as messages carry them, read without making signatures of them.

1. `Member`: a task of a chord's header.
2. `frozen_tasks`: all tasks of a signature that have ids.
3. `failing_parts`: the error callbacks of a chord's body.
4. `listed`, `append_option`: options with one signature or several.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from framework.exceptions import FrameworkError

if TYPE_CHECKING:
    from framework.client.request import Context

#: Signatures nested deeper than this are ignored.
_DEEPEST: Final = 100


class Member(NamedTuple):
    """A task of a chord's header, as its message describes it."""

    task_id: str
    group_id: str
    place: float | None
    #: The body's signature.
    body: Mapping[str, Any]
    root_id: str | None

    @classmethod
    def of(cls, request: Context) -> Member | None:
        """Return the member that `request` describes; None if it has no chord and group."""
        return cls.described(request.id, request.group, request.group_index, request.chord, request.root_id)

    @classmethod
    def described(cls, task_id: Any, group_id: Any, index: Any, body: Any, root_id: str | None) -> Member | None:
        """Return the member that a message or an option describes; None if it describes none."""
        if not isinstance(body, Mapping) or not group_id or not task_id:
            return None
        place = float(index) if isinstance(index, (int, float)) else None
        return cls(str(task_id), str(group_id), place, body, root_id)


class FrozenTask(NamedTuple):
    """A task of a signature that has an id already (see `Signature.freeze`)."""

    task_id: str
    group_id: str | None
    reply_to: str | None
    #: Set for a task of a chord's header.
    member: Member | None


def frozen_tasks(element: Any, depth: int = 0) -> list[FrozenTask]:
    """Return the tasks with ids of a signature's document. Raises `FrameworkError` if it is not a signature."""
    if not isinstance(element, Mapping):
        raise FrameworkError(f"not a signature: {element!r:.200}")
    if depth > _DEEPEST:
        return []
    options, kwargs = element.get("options") or {}, element.get("kwargs") or {}
    kind = element.get("subtask_type")
    if kind in ("group", "chain"):
        found = _all_of(kwargs.get("tasks") or (), depth)
    elif kind == "chord":
        body = kwargs.get("body")
        found = [*_of_header(kwargs.get("header") or (), depth), *_all_of([body] if body else [], depth)]
    else:
        found = _task_of(options)
    return [*found, *_all_of(reversed(options.get("chain") or ()), depth)]


def _all_of(elements: Iterable[Any], depth: int) -> list[FrozenTask]:
    return [one for element in elements for one in frozen_tasks(element, depth + 1)]


def _of_header(header: Any, depth: int) -> list[FrozenTask]:
    """Return the tasks of a chord's header, a group or a list, without `member`: their body fails in any case."""
    tasks, group_id = header, None
    if isinstance(header, Mapping):
        tasks = (header.get("kwargs") or {}).get("tasks") or ()
        group_id = (header.get("options") or {}).get("task_id")
    return [one._replace(member=None, group_id=one.group_id or group_id) for one in _all_of(tasks, depth)]


def _task_of(options: Mapping[str, Any]) -> list[FrozenTask]:
    """Return the one task of a signature with these options, if it has an id."""
    task_id, group_id = options.get("task_id"), options.get("group_id")
    if not task_id:
        return []
    member = Member.described(
        task_id, group_id, options.get("group_index"), options.get("chord"), options.get("root_id")
    )
    return [FrozenTask(str(task_id), group_id, options.get("reply_to"), member)]


def failing_parts(body: Any, passed: Sequence[Any] = ()) -> list[tuple[Mapping[str, Any], list[Any]]]:
    """Return the parts of a chord's body that have a result each, with their error callbacks and `passed`, each once.

    These are the tasks of a group, unless something follows it, and otherwise the body itself.
    """
    if not isinstance(body, Mapping):
        return []
    options, kwargs = body.get("options") or {}, body.get("kwargs") or {}
    if body.get("subtask_type") == "group" and not options.get("chain"):
        passed = _joined(listed(options.get("link_error")), passed)
        return [part for task in kwargs.get("tasks") or () for part in failing_parts(task, passed)]
    return [(body, _joined(_errbacks(body), passed))]


def _errbacks(element: Any, depth: int = 0) -> list[Any]:
    """Return the error callbacks of a signature and of its parts, each once."""
    if not isinstance(element, Mapping) or depth > _DEEPEST:
        return []
    options, kwargs = element.get("options") or {}, element.get("kwargs") or {}
    found = listed(options.get("link_error") or None)
    kind = element.get("subtask_type")
    below = (kwargs.get("tasks") or ()) if kind in ("group", "chain") else ()
    for each in [*below, kwargs.get("body")] if kind == "chord" else below:
        found = _joined(found, _errbacks(each, depth + 1))
    return found


def _joined(found: list[Any], others: Sequence[Any]) -> list[Any]:
    return [*found, *(other for other in others if other not in found)]


def listed(items: Any) -> list[Any]:
    """Return `items`, a list, a tuple, one item or None, as a list."""
    if items is None:
        return []
    return list(items) if isinstance(items, (list, tuple)) else [items]


def append_option(options: dict[str, Any], name: str, item: Any) -> None:
    """Add `item` to the list `options[name]`, unless it contains it."""
    items = listed(options.get(name))
    if item not in items:
        items.append(item)
    options[name] = items
