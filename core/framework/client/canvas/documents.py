"""Signatures as documents, which is how messages carry them: what can be told from one without making anything of it.

1. `Member`: a task of a chord's header.
2. `doomed`: all tasks that a signature stands for, once they will never run.
3. `listed`, `append_option`: options that hold one signature or several.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from framework.exceptions import FrameworkError

if TYPE_CHECKING:
    from framework.client.request import Context

#: Levels of signatures inside signatures that are looked at.
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
        """Return the member that `request` is; None: its chord or its group is no such thing."""
        return cls.described(request.id, request.group, request.group_index, request.chord, request.root_id)

    @classmethod
    def described(cls, task_id: Any, group_id: Any, index: Any, body: Any, root_id: str | None) -> Member | None:
        """Return the member that a message or an option describes; None: it is no such thing."""
        if not isinstance(body, Mapping) or not group_id or not task_id:
            return None
        place = float(index) if isinstance(index, (int, float)) else None
        return cls(str(task_id), str(group_id), place, body, root_id)


class Doomed(NamedTuple):
    """A task that was to run later and never will."""

    task_id: str
    group_id: str | None
    reply_to: str | None
    #: Set if it belongs to the header of a chord.
    member: Member | None


def doomed(element: Any, depth: int = 0) -> list[Doomed]:
    """Return all tasks of a signature, as it stands in a message. Raises `FrameworkError` if it is none."""
    if not isinstance(element, Mapping):
        raise FrameworkError(f"not a signature: {element!r:.200}")
    if depth > _DEEPEST:
        return []
    options, kwargs = element.get("options") or {}, element.get("kwargs") or {}
    kind = element.get("subtask_type")
    if kind in ("group", "chain"):
        found = _all_doomed(kwargs.get("tasks") or (), depth)
    elif kind == "chord":
        body = kwargs.get("body")
        found = [*_doomed_header(kwargs.get("header") or (), depth), *_all_doomed([body] if body else [], depth)]
    else:
        found = _doomed_task(options)
    return [*found, *_all_doomed(reversed(options.get("chain") or ()), depth)]


def _all_doomed(elements: Iterable[Any], depth: int) -> list[Doomed]:
    return [one for element in elements for one in doomed(element, depth + 1)]


def _doomed_header(header: Any, depth: int) -> list[Doomed]:
    """Return the tasks of a chord's header, a group or a list. The body fails at once: nobody is to count them."""
    tasks, group_id = header, None
    if isinstance(header, Mapping):
        tasks = (header.get("kwargs") or {}).get("tasks") or ()
        group_id = (header.get("options") or {}).get("task_id")
    return [one._replace(member=None, group_id=one.group_id or group_id) for one in _all_doomed(tasks, depth)]


def _doomed_task(options: Mapping[str, Any]) -> list[Doomed]:
    """Return the one task of a signature with these options, if its id is settled."""
    task_id, group_id = options.get("task_id"), options.get("group_id")
    if not task_id:
        return []
    member = Member.described(
        task_id, group_id, options.get("group_index"), options.get("chord"), options.get("root_id")
    )
    return [Doomed(str(task_id), group_id, options.get("reply_to"), member)]


def listed(items: Any) -> list[Any]:
    """Return `items` as a list: of one, if it is none."""
    if items is None:
        return []
    return list(items) if isinstance(items, (list, tuple)) else [items]


def append_option(options: dict[str, Any], name: str, item: Any) -> None:
    """Add `item` to the list `options[name]`, once."""
    items = listed(options.get(name))
    if item not in items:
        items.append(item)
    options[name] = items
