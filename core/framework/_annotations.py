"""The setting `annotations` of ``[task]``: attributes of tasks that are set from outside of their code.

It maps names of tasks, or ``*`` for all of them, to attributes with their values. In code it may be a list of such
mappings, and of objects whose `annotate(task)` returns attributes; later ones win over earlier ones, and a task's own
name over ``*``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from framework.exceptions import ConfigError

if TYPE_CHECKING:
    from framework.task import Task


def annotate(task: Task[..., Any], annotations: Any) -> None:
    """Give `task` the attributes that `annotations` have for it. Raises `ConfigError` for one that no task has."""
    if not annotations:
        return
    kind = type(task)
    for attributes in _of(task, annotations):
        if not isinstance(attributes, Mapping):
            raise ConfigError(f"task_annotations: {task.name} must have a table of attributes, and has {attributes!r}")
        for name, value in attributes.items():
            if name.startswith("_") or not hasattr(kind, name):
                close = difflib.get_close_matches(name, [key for key in dir(kind) if not key.startswith("_")], 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ConfigError(f"task_annotations: {task.name} has no attribute {name!r}{hint}")
            # On the class, so that functions become methods; a task has a class of its own.
            setattr(kind, name, value)


def _of(task: Task[..., Any], annotations: Any) -> Iterator[Any]:
    for one in annotations if isinstance(annotations, (list, tuple)) else (annotations,):
        if isinstance(one, Mapping):
            yield one.get("*") or {}
            yield one.get(task.name) or {}
        elif hasattr(one, "annotate"):
            yield one.annotate(task) or {}
        else:
            raise ConfigError(f"task_annotations must map names of tasks to attributes, and has {one!r:.100}")
