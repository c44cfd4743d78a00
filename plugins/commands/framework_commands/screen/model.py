"""The state of the live screen and the actions of its keys.

1. Runs a receiver in a thread, which keeps the `State` up to date.
2. Handles keys in `press`: moves the selection, changes the view, opens a page about a task, prompts for text.
3. Sends remote-control commands in a thread and shows the reply later, so that the screen never blocks.
4. Samples the event counts in `tick`, once per redraw; rates cover the last few seconds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from framework.events import BackgroundReceiver, State, Task, Worker
from framework.exceptions import FrameworkError, TransportError

if TYPE_CHECKING:
    from framework import App

View = Literal["tasks", "workers", "types"]
VIEWS: Final[tuple[View, ...]] = ("tasks", "workers", "types")
Page = Literal["info", "result", "traceback", "help"]

#: Seconds over which rates are measured, and for which a message is shown.
_WINDOW: Final = 5.0
_MESSAGE: Final = 8.0
#: Seconds to wait for replies of workers.
_ANSWER: Final = 2.0


class Prompt(NamedTuple):
    """A question to the user, and the callback for the answer."""

    question: str
    #: Whether one key answers: y for yes, any other for no.
    yes_no: bool
    done: Callable[[str], object]


class Model:
    """The state of the screen, used by one thread; only events, connection changes and replies come from others."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.state: State = app.events.State()
        self.broker: str = app.transport.display_url
        #: The connection error; "" while connected, None before the first attempt has ended.
        self.trouble: str | None = None
        self.view: View = "tasks"
        self.page: Page | None = None
        self.scroll = 0
        self.prompt: Prompt | None = None
        self.typed = ""
        self.paused = False
        self.closed = False
        #: Lines of the list that fit on the screen; set by `views.draw`.
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
        # The screen shows the URL already.
        self.trouble = "" if error is None else str(error).replace(f"{self.broker} ", "")

    @property
    def error(self) -> BaseException | None:
        """The error that ended the capture, if any."""
        return self._receiver.error

    def tick(self) -> None:
        """Sample the event counts; quit when the capture has failed."""
        now = time.monotonic()
        with self.state.lock:
            counts = dict(self.state.counts)
        self._samples.append((now, counts))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW:
            self._samples.popleft()
        if self.error is not None:
            self.closed = True

    def rate(self, kind: str) -> float:
        """Return how many events of the type `kind` arrive per second."""
        if len(self._samples) < 2:
            return 0.0
        (since, before), (until, after) = self._samples[0], self._samples[-1]
        return (after.get(kind, 0) - before.get(kind, 0)) / max(until - since, 0.001)

    @property
    def message(self) -> tuple[str, bool]:
        """The current message ("": none), and whether it is an error."""
        until, text, failed = self._message
        return (text, failed) if time.monotonic() < until else ("", False)

    def show_message(self, text: str, *, failed: bool = False) -> None:
        """Show `text` for a few seconds."""
        self._message = (time.monotonic() + _MESSAGE, text, failed)

    # ------------------------------------------------------------ lists

    def tasks(self) -> list[Task]:
        """Return the tasks, latest event first; while paused, as of the moment of pausing."""
        if self._frozen is not None:
            return self._frozen
        return [task for _, task in self.state.tasks_by_time()]

    def workers(self) -> list[Worker]:
        """Return the workers, sorted by name."""
        with self.state.lock:
            return sorted(self.state.workers.values(), key=lambda worker: worker.hostname)

    def keys(self) -> list[str]:
        """Return the keys of the lines of the view: task ids, node names or task names."""
        if self.view == "tasks":
            return [task.uuid for task in self.tasks()]
        if self.view == "workers":
            return [worker.hostname for worker in self.workers()]
        return self.state.task_types()

    def window(self, keys: list[str]) -> tuple[int, int]:
        """Return the indexes of the first line to show and of the selected line (-1: none)."""
        if not keys:
            return 0, -1
        wanted = self._selected[self.view]
        # Without a selection, the first line is the selected one, also when new lines arrive.
        chosen = keys.index(wanted) if wanted in keys else 0
        top = self._top[self.view] if wanted in keys else 0
        top = max(0, min(top, chosen, len(keys) - self.height), chosen - self.height + 1)
        self._top[self.view] = top
        return top, chosen

    def task(self) -> Task | None:
        """Return the selected task."""
        if self.view != "tasks":
            return None
        tasks = self.tasks()
        _, chosen = self.window([task.uuid for task in tasks])
        return tasks[chosen] if chosen >= 0 else None

    # ------------------------------------------------------------ keys

    def press(self, key: str) -> None:
        """Handle the key `key`."""
        if self.prompt is not None:
            self._answer(key)
        elif self.page is not None:
            self._scroll(key)
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

    def _scroll(self, key: str) -> None:
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
        # The first line is selected again: follow new lines.
        self._selected[self.view] = keys[chosen] if chosen or (step is not None and step > 0) else None

    def _change_view(self, key: str) -> None:
        now = VIEWS.index(self.view)
        step = {"tab": 1, "back tab": -1}.get(key)
        self.view = VIEWS[int(key) - 1] if step is None else VIEWS[(now + step) % len(VIEWS)]

    def _open(self, page: Page) -> None:
        if page != "help" and self.task() is None:
            self.show_message("Select a task first: key 1 lists the tasks", failed=True)
            return
        if page != "help" and self._selected["tasks"] is None:
            task = self.task()
            # The page keeps its task when new lines arrive.
            self._selected["tasks"] = task.uuid if task is not None else None
        self.page, self.scroll = page, 0

    def _quit(self) -> None:
        self.closed = True

    def _pause(self) -> None:
        self.paused = not self.paused
        self._frozen = self.tasks() if self.paused else None

    # ------------------------------------------------------------ remote control

    def _revoke(self) -> None:
        task = self.task()
        if task is None:
            self.show_message("Select a task first: key 1 lists the tasks", failed=True)
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
            self.show_message("Select a task or a task type first", failed=True)
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
        self.show_message(f"{command} …")
        thread = threading.Thread(target=self._broadcast, args=(command, arguments), daemon=True)
        thread.start()

    def _broadcast(self, command: str, arguments: dict[str, Any]) -> None:
        try:
            replies = self.app.control.broadcast(command, arguments, reply=True, timeout=_ANSWER) or []
        except FrameworkError as error:
            self.show_message(f"{command}: {error}", failed=True)
            return
        answers = [(node, answer) for reply in replies for node, answer in reply.items()]
        if not answers:
            self.show_message(f"{command}: no worker replied", failed=True)
            return
        failed = [(node, answer["error"]) for node, answer in answers if isinstance(answer, dict) and "error" in answer]
        if failed:
            self.show_message(f"{command}: error from {failed[0][0]}: {failed[0][1]}", failed=True)
        else:
            node, answer = answers[0]
            others = f" (and {len(answers) - 1} more)" if len(answers) > 1 else ""
            text = answer.get("ok", answer) if isinstance(answer, dict) else answer
            self.show_message(f"{node}{others}: {text}")


_MOVES: Final = frozenset({"up", "k", "down", "j", "page up", "page down", "home", "end", "g", "G"})
_PAGES: Final[dict[str, Page]] = {"i": "info", "enter": "info", "r": "result", "t": "traceback", "?": "help"}
_ACTIONS: Final[dict[str, Callable[[Model], object]]] = {
    "q": Model._quit,
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
