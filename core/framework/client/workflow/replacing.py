"""Changes to a workflow by a running task of it: `Task.replace` and `Task.add_to_chord`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from framework.client.canvas import Signature, chain
from framework.client.canvas.chords import one_result
from framework.client.canvas.signatures import copied
from framework.client.canvas.stamping import stamp
from framework.exceptions import FrameworkError, Ignore, ImproperlyConfigured

if TYPE_CHECKING:
    from framework.client.request import Context
    from framework.client.results import EagerResult
    from framework.client.task import Task


class ReplacedHere(Ignore):
    """Raised by `replace` in an eager run, with the result of the replacement."""

    def __init__(self, result: EagerResult[Any]) -> None:
        super().__init__("Replaced by new task")
        self.result = result


def replace(task: Task[..., Any], request: Context, sig: Signature[Any]) -> NoReturn:
    """Send `sig` in the place of `request`. Raises `Ignore`."""
    if request.called_directly and not request.is_eager:
        raise FrameworkError(f"{task.name}.replace() works only in a running task, not in a plain call")
    app = task.app
    new = _copied(task, sig, "replace with")
    # Some worker consumes from the queue of this task.
    new = one_result(new, **app.sender.place_of(request))
    for link in request.callbacks or ():
        new.link(Signature.from_dict(link, app))
    for link in request.errbacks or ():
        new.link_error(Signature.from_dict(link, app))
    if request.stamped_headers:
        stamps: dict[str, Any] = {name: request.stamps.get(name) for name in request.stamped_headers}
        stamp(new, None, False, stamps)
    nesting = request.replaced_task_nesting + 1
    if isinstance(new, chain):
        for step in new["kwargs"]["tasks"]:
            step.set(replaced_task_nesting=nesting)
    if request.is_eager:
        raise ReplacedHere(new.apply(task_id=request.id))
    own = {
        "task_id": request.id,
        "root_id": request.root_id or request.id,
        "parent_id": request.parent_id,
        "group_id": request.group,
        "group_index": request.group_index,
        "chord": request.chord,
        "chain": request.chain or None,
        "reply_to": request.reply_to,
        "replaced_task_nesting": nesting,
    }
    new.apply_async(**{name: value for name, value in own.items() if value is not None})
    raise Ignore("Replaced by new task")


def add_to_chord(task: Task[..., Any], request: Context, sig: Signature[Any], lazy: bool) -> Any:
    """Add `sig` to the chord header of `request`."""
    if not request.chord or not request.group:
        raise ValueError(f"{task.name} does not run in the header of a chord")
    app = task.app
    new = one_result(_copied(task, sig, "add"))
    new.freeze(None, group_id=request.group, chord=request.chord, root_id=request.root_id)
    app.result_store.grow_chord(request.group)
    return new if lazy else new.apply_async()


def _copied(task: Task[..., Any], sig: Signature[Any], verb: str) -> Signature[Any]:
    """Return a copy of `sig`, which a running `task` sends. Raises `ImproperlyConfigured` if it has no result."""
    new = copied(sig, task.app)
    if isinstance(new, chain) and not new.tasks:
        raise ImproperlyConfigured(f"Cannot {verb} an empty chain, which has no result: {task.name} must name a task")
    return new
