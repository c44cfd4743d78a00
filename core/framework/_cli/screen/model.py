"""What the live screen shows, and what its keys do.

1. A receiver in a thread of its own keeps the `State` up to date.
2. `press` moves the selection, changes the view, opens a page about one task, asks for a line of text.
3. What is asked of workers is asked in a thread, and the answer is shown when it has come: the screen never waits.
4. `tick` samples the counts once a picture; rates are those of the last few seconds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from framework.client.events.receiver import BackgroundReceiver
from framework.client.events.state import State, Task, Worker
from framework.exceptions import FrameworkError, TransportError

if TYPE_CHECKING:
    from framework.client.app import App

View = Literal["tasks", "workers", "types"]
VIEWS: Final[tuple[View, ...]] = ("tasks", "workers", "types")
Page = Literal["info", "result", "traceback", "help"]

#: Seconds over which rates are taken, and for which a message stays.
_WINDOW: Final = 5.0
_MESSAGE: Final = 8.0
#: Seconds to wait for the answers of workers.
_ANSWER: Final = 2.0


class Prompt(NamedTuple):
    """A line that the user is asked for."""

    question: str
    #: One key is enough: y, or anything else for no.
    yes_no: bool
    done: Callable[[str], object]


class Model:
    """The screen's memory. Used by one thread, but for what comes in."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.state: State = app.events.State()
        self.broker: str = app.transport.display_url
        #: Why the broker is not heard; "" when it is, None before the first attempt has ended.
        self.trouble: str | None = None
        self.view: View = "tasks"
        self.page: Page | None = None
        self.scroll = 0
        self.prompt: Prompt | None = None
        self.typed = ""
        self.paused = False
        self.left = False
        #: Lines of the list that fit; the views set it.
        self.height = 10
        self._selected: dict[View, str | None] = dict.fromkeys(VIEWS)
        self._top: dict[View, int] = dict.fromkeys(VIEWS, 0)
        self._frozen: list[Task] | None = None
        self._message: tuple[float, str, bool] = (0.0, "", False)
        self._samples: deque[tuple[float, dict[str, int]]] = deque()
        receiver = app.events.Receiver({"*": self.state.event})
        receiver.on_connection = self._on_connection
        self._receiver = BackgroundReceiver(receiver)

    def __enter__(self) -> Model:
        self._receiver.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._receiver.close()

    def _on_connection(self, error: TransportError | None) -> None:
        # The URL is on the screen already.
        self.trouble = "" if error is None else str(error).replace(f"{self.broker} ", "")

    @property
    def error(self) -> BaseException | None:
        """What ended the capture."""
        return self._receiver.error

    def tick(self) -> None:
        """Sample the counts; leave when the capture has ended."""
        now = time.monotonic()
        with self.state.lock:
            counts = dict(self.state.counts)
        self._samples.append((now, counts))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW:
            self._samples.popleft()
        if self.error is not None:
            self.left = True

    def rate(self, kind: str) -> float:
        """Return how many events of a type come a second."""
        if len(self._samples) < 2:
            return 0.0
        (since, before), (until, after) = self._samples[0], self._samples[-1]
        return (after.get(kind, 0) - before.get(kind, 0)) / max(until - since, 0.001)

    @property
    def message(self) -> tuple[str, bool]:
        """What to tell the user, and whether it is an error."""
        until, text, failed = self._message
        return (text, failed) if time.monotonic() < until else ("", False)

    def tell(self, text: str, *, failed: bool = False) -> None:
        """Show `text` for a while."""
        self._message = (time.monotonic() + _MESSAGE, text, failed)

    # ------------------------------------------------------------ what is listed

    def tasks(self) -> list[Task]:
        """The tasks, last heard of first; as they were when the screen was paused."""
        if self._frozen is not None:
            return self._frozen
        return [task for _, task in self.state.tasks_by_time()]

    def workers(self) -> list[Worker]:
        """The workers, by name."""
        with self.state.lock:
            return sorted(self.state.workers.values(), key=lambda worker: worker.hostname)

    def keys(self) -> list[str]:
        """What the lines of the view are known by."""
        if self.view == "tasks":
            return [task.uuid for task in self.tasks()]
        if self.view == "workers":
            return [worker.hostname for worker in self.workers()]
        return self.state.task_types()

    def window(self, keys: list[str]) -> tuple[int, int]:
        """Return the first line to show, and the selected one (-1: there is none)."""
        if not keys:
            return 0, -1
        wanted = self._selected[self.view]
        # With nothing chosen, the first line is the selected one, whatever comes.
        chosen = keys.index(wanted) if wanted in keys else 0
        top = self._top[self.view] if wanted in keys else 0
        top = max(0, min(top, chosen, len(keys) - self.height), chosen - self.height + 1)
        self._top[self.view] = top
        return top, chosen

    def task(self) -> Task | None:
        """The selected task."""
        if self.view != "tasks":
            return None
        tasks = self.tasks()
        _, chosen = self.window([task.uuid for task in tasks])
        return tasks[chosen] if chosen >= 0 else None

    # ------------------------------------------------------------ keys

    def press(self, key: str) -> None:
        """Do what `key` asks for."""
        if self.prompt is not None:
            self._answer(key)
        elif self.page is not None:
            self._turn(key)
        elif key in _MOVES:
            self._move(key)
        elif key in ("tab", "back tab", "1", "2", "3"):
            self._change_view(key)
        elif (action := _ACTIONS.get(key)) is not None:
            action(self)

    def _answer(self, key: str) -> None:
        prompt = self.prompt
        assert prompt is not None
        if prompt.yes_no or key in ("enter", "escape"):
            self.prompt = None
            if prompt.yes_no and key in ("y", "Y"):
                prompt.done(key)
            elif not prompt.yes_no and key == "enter":
                prompt.done(self.typed.strip())
        elif key == "backspace":
            self.typed = self.typed[:-1]
        elif len(key) == 1:
            self.typed += key

    def _turn(self, key: str) -> None:
        if key in ("up", "k"):
            self.scroll -= 1
        elif key in ("down", "j"):
            self.scroll += 1
        elif key in ("page up", "page down"):
            self.scroll += self.height if key == "page down" else -self.height
        elif key == "home":
            self.scroll = 0
        elif key in _PAGES:
            self._open(_PAGES[key])
        elif key in ("escape", "q", "backspace"):
            self.page = None
        self.scroll = max(0, self.scroll)

    def _move(self, key: str) -> None:
        keys = self.keys()
        if not keys:
            return
        _, chosen = self.window(keys)
        step = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -self.height, "page down": self.height}.get(key)
        if step is None:
            chosen = len(keys) - 1 if key in ("end", "G") else 0
        else:
            chosen = max(0, min(chosen + step, len(keys) - 1))
        # On the first line again: follow what comes.
        self._selected[self.view] = keys[chosen] if chosen or (step is not None and step > 0) else None

    def _change_view(self, key: str) -> None:
        now = VIEWS.index(self.view)
        step = {"tab": 1, "back tab": -1}.get(key)
        self.view = VIEWS[int(key) - 1] if step is None else VIEWS[(now + step) % len(VIEWS)]

    def _open(self, page: Page) -> None:
        if page != "help" and self.task() is None:
            self.tell("Select a task first: key 1 lists them", failed=True)
            return
        if page != "help" and self._selected["tasks"] is None:
            task = self.task()
            # What is looked at stays, whatever comes.
            self._selected["tasks"] = task.uuid if task is not None else None
        self.page, self.scroll = page, 0

    def _leave(self) -> None:
        self.left = True

    def _pause(self) -> None:
        self.paused = not self.paused
        self._frozen = self.tasks() if self.paused else None

    # ------------------------------------------------------------ asking workers

    def _revoke(self) -> None:
        task = self.task()
        if task is None:
            self.tell("Select a task first: key 1 lists them", failed=True)
            return
        self._selected["tasks"] = task.uuid
        question = f"Revoke {task.name or 'task'} {task.uuid}? (y/n)"
        self.prompt = Prompt(question, True, lambda _: self._ask("revoke", {"task_id": task.uuid}))

    def _limit(self) -> None:
        task = self.task()
        name = task.name if task is not None else self._selected["types"] if self.view == "types" else None
        if name is None and self.view == "types":
            types = self.state.task_types()
            _, chosen = self.window(types)
            name = types[chosen] if chosen >= 0 else None
        if name is None:
            self.tell("Select a task, or a type of task, first", failed=True)
            return
        self.typed = ""
        question = f"Rate limit of {name} (10/s, 200/m, 1000/h; 0: none): "
        self.prompt = Prompt(question, False, lambda text: self._set_limit(name, text))

    def _set_limit(self, name: str, text: str) -> None:
        if text:
            self._ask("rate_limit", {"task_name": name, "rate_limit": text})

    def _enable(self) -> None:
        self._ask("enable_events", {})

    def _disable(self) -> None:
        self._ask("disable_events", {})

    def _ask(self, command: str, arguments: dict[str, Any]) -> None:
        self.tell(f"{command} …")
        thread = threading.Thread(target=self._broadcast, args=(command, arguments), daemon=True)
        thread.start()

    def _broadcast(self, command: str, arguments: dict[str, Any]) -> None:
        try:
            replies = self.app.control.broadcast(command, arguments, reply=True, timeout=_ANSWER) or []
        except FrameworkError as error:
            self.tell(f"{command}: {error}", failed=True)
            return
        answers = [(node, answer) for reply in replies for node, answer in reply.items()]
        if not answers:
            self.tell(f"{command}: no worker has answered", failed=True)
            return
        failed = [(node, answer["error"]) for node, answer in answers if isinstance(answer, dict) and "error" in answer]
        if failed:
            self.tell(f"{command}: {failed[0][0]} says: {failed[0][1]}", failed=True)
        else:
            node, answer = answers[0]
            others = f" (and {len(answers) - 1} more)" if len(answers) > 1 else ""
            text = answer.get("ok", answer) if isinstance(answer, dict) else answer
            self.tell(f"{node}{others}: {text}")


_MOVES: Final = frozenset({"up", "k", "down", "j", "page up", "page down", "home", "end", "g", "G"})
_PAGES: Final[dict[str, Page]] = {"i": "info", "enter": "info", "r": "result", "t": "traceback", "?": "help"}
_ACTIONS: Final[dict[str, Callable[[Model], object]]] = {
    "q": Model._leave,
    " ": Model._pause,
    "c": Model._revoke,
    "l": Model._limit,
    "e": Model._enable,
    "E": Model._disable,
    "i": lambda model: model._open("info"),
    "enter": lambda model: model._open("info"),
    "r": lambda model: model._open("result"),
    "t": lambda model: model._open("traceback"),
    "?": lambda model: model._open("help"),
}
