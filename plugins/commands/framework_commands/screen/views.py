"""Draws the live screen: two status lines, a list or a page, a message line and a line of keys."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from framework.events import Task, Worker
from framework_commands.screen.model import VIEWS, Model

_STYLES: Final = {
    "SUCCESS": "green",
    "FAILURE": "bold red",
    "RETRY": "yellow",
    "REVOKED": "magenta",
    "REJECTED": "magenta",
    "CANCELLED": "magenta",
    "STARTED": "cyan",
    "RECEIVED": "blue",
    "PENDING": "dim",
}
_KEYS: Final = {
    "tasks": "i info  r result  t traceback  c revoke  l limit  tab view  ? help  q quit",
    "workers": "e task events on  E off  tab view  ? help  q quit",
    "types": "l rate limit  tab view  ? help  q quit",
}
_HELP: Final = """\
1 2 3, tab      tasks, workers, task types
↑ ↓ j k         select; page up, page down, home, end
home, g         the first line, which follows new lines
space           pause or resume the list of tasks

i, enter        everything known about the selected task
r               its result
t               its traceback
c               revoke it: it will not start, but is not stopped if it runs
l               rate limit of its type, on all workers

e, E            switch task events of all workers on, off
q, Ctrl-C       quit

The screen shows events since it was opened, for at most the last 10,000 tasks and 5,000 workers."""
_SHORT_ID: Final = 8
#: Minimum columns for a wide layout, with full ids.
_WIDE: Final = 140
_CHROME: Final = 5


def draw(model: Model, console: Console) -> RenderableType:
    """Return the whole screen, no taller than the terminal."""
    width, height = console.size
    model.height = max(1, height - _CHROME)
    if model.page is not None:
        body = _page(model, width)
    else:
        body = {"tasks": _tasks, "workers": _workers, "types": _types}[model.view](model, width)
    lines = console.render_lines(body, console.options.update(width=width, height=None), pad=False)
    shown = lines[: height - 4]
    filler = "\n" * (height - 4 - len(shown))
    middle = [Text.assemble(*((segment.text, segment.style or "") for segment in line)) for line in shown]
    return Group(
        _title(model, width),
        _status(model, width),
        *middle,
        Text(filler[:-1]) if filler else Text("", end=""),
        *_footer(model, width),
    )


def _fit(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    text.no_wrap = True
    return text


def _title(model: Model, width: int) -> Text:
    if model.trouble is None:
        status = Text("… connecting", "yellow")
    elif model.trouble:
        status = Text(f"○ {model.trouble}", "bold red")
    else:
        status = Text("● connected", "green")
    clock = time.strftime("%H:%M:%S")
    left = Text.assemble((" framework events ", "reverse bold"), " ")
    if model.paused:
        left.append("PAUSED  ", "bold yellow")
    left = Text.assemble(left, status, "  ", (model.broker, "dim"))
    left = _fit(left, max(0, width - len(clock) - 2))
    left.pad_right(max(0, width - left.cell_len - len(clock) - 1))
    left.append(clock, "dim")
    return left


def _status(model: Model, width: int) -> Text:
    workers = model.workers()
    alive = sum(worker.alive for worker in workers)
    text = Text(" ")
    for view in VIEWS:
        text.append(f" {VIEWS.index(view) + 1} {view} ", "reverse" if view == model.view else "dim")
    text.append("  online ", "dim")
    # Without a connection the state of the workers is unknown.
    text.append("?" if model.trouble else f"{alive}", "yellow" if model.trouble else "green" if alive else "red")
    text.append(f"/{len(workers)} ")
    rates = [("received", "in"), ("succeeded", "ok"), ("failed", "failed")]
    for kind, label in rates if width < _WIDE else [*rates, ("retried", "retried"), ("revoked", "revoked")]:
        rate = model.rate(f"task-{kind}")
        style = "bold red" if kind == "failed" and rate else "bold" if rate else "dim"
        text.append(f" {label} ", "dim")
        text.append(f"{_number(rate)}/s", style)
    text.append(f"   {model.state.event_count:,} events", "dim")
    return _fit(text, width)


def _footer(model: Model, width: int) -> list[Text]:
    if model.prompt is not None:
        line = Text(f" {model.prompt.question}", "bold yellow")
        line.append(model.typed + ("" if model.prompt.yes_no else "▏"), "bold")
        return [_fit(line, width), Text("", end="")]
    text, failed = model.message
    keys = " ↑↓ scroll  i info  r result  t traceback  esc back" if model.page else f" {_KEYS[model.view]}"
    last = _fit(Text(keys, "dim"), width)
    last.end = ""
    return [_fit(Text(f" {text}", "bold red" if failed else "cyan"), width), last]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


# ---------------------------------------------------------------- lists


def _table(*columns: tuple[str, int | None, str]) -> Table:
    """Return a table that fills the width: ``(title, cells or None for a share, alignment)``."""
    table = Table(box=None, expand=True, pad_edge=True, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    for title, cells, justify in columns:
        table.add_column(
            title,
            no_wrap=True,
            overflow="ellipsis",
            width=cells,
            ratio=None if cells else 1,
            justify="right" if justify == "right" else "left",
        )
    return table


def _tasks(model: Model, width: int) -> RenderableType:
    tasks = model.tasks()
    if not tasks:
        return _empty(model)
    wide = width >= _WIDE
    columns = [("TIME", 8, ""), ("STATE", 9, ""), ("NAME", None, "")]
    columns += [("ARGUMENTS", None, "")] if wide else []
    columns += [("WORKER", None, ""), ("RUNTIME", 9, "right"), ("ID", 36 if wide else _SHORT_ID, "")]
    table = _table(*columns)
    top, chosen = model.window([task.uuid for task in tasks])
    for number, task in enumerate(tasks[top : top + model.height], top):
        cells: list[str | Text] = [
            _clock(task.timestamp),
            Text(task.state, _STYLES.get(task.state, "")),
            task.name or "?",
            *([_arguments(task)] if wide else []),
            task.worker or task.client or "",
            _seconds(task.runtime),
            task.uuid if wide else task.uuid[:_SHORT_ID],
        ]
        _add(table, cells, selected=number == chosen)
    return table


def _add(table: Table, cells: Iterable[str | Text], *, selected: bool) -> None:
    # `Text` keeps square brackets in names and arguments from being parsed as markup.
    table.add_row(
        *(Text(cell) if isinstance(cell, str) else cell for cell in cells), style="reverse" if selected else ""
    )


def _workers(model: Model, width: int) -> RenderableType:
    workers = model.workers()
    if not workers:
        return _empty(model)
    table = _table(
        ("WORKER", None, ""),
        ("STATUS", 8, ""),
        ("SEEN", 8, "right"),
        ("ACTIVE", 6, "right"),
        ("PROCESSED", 11, "right"),
        ("LOAD", 5, "right"),
        ("PID", 8, "right"),
        *([("SOFTWARE", 24, "")] if width >= _WIDE else []),
    )
    top, chosen = model.window([worker.hostname for worker in workers])
    for number, worker in enumerate(workers[top : top + model.height], top):
        _add(table, _worker(worker, width, disconnected=bool(model.trouble)), selected=number == chosen)
    return table


def _worker(worker: Worker, width: int, *, disconnected: bool) -> list[str | Text]:
    software = " ".join(part for part in (worker.sw_ident, worker.sw_ver, worker.sw_sys) if part)
    return [
        worker.hostname,
        Text("?", "yellow") if disconnected else Text(worker.status, "green" if worker.alive else "red"),
        f"{max(0.0, time.time() - worker.heartbeat):.0f} s ago",
        "-" if worker.active is None else f"{worker.active:,}",
        "-" if worker.processed is None else f"{worker.processed:,}",
        f"{worker.loadavg[0]:.2f}" if worker.loadavg else "-",
        str(worker.pid or "-"),
        *([software] if width >= _WIDE else []),
    ]


def _types(model: Model, _width: int) -> RenderableType:
    names = model.state.task_types()
    if not names:
        return _empty(model)
    table = _table(
        ("NAME", None, ""),
        ("RUNNING", 8, "right"),
        ("OK", 8, "right"),
        ("FAILED", 8, "right"),
        ("RETRIED", 8, "right"),
        ("MEAN", 9, "right"),
        ("LONGEST", 9, "right"),
    )
    top, chosen = model.window(names)
    shown = names[top : top + model.height]
    by_name: dict[str, list[Task]] = {name: [] for name in shown}
    for task in model.tasks():
        if task.name in by_name:
            by_name[task.name].append(task)
    for number, name in enumerate(shown, top):
        found = by_name[name]
        states = [task.state for task in found]
        times = [task.runtime for task in found if task.runtime is not None]
        cells = [
            name,
            *(f"{states.count(state):,}" for state in ("STARTED", "SUCCESS", "FAILURE", "RETRY")),
            _seconds(sum(times) / len(times) if times else None),
            _seconds(max(times, default=None)),
        ]
        _add(table, cells, selected=number == chosen)
    return table


def _empty(model: Model) -> RenderableType:
    workers = model.workers()
    if model.trouble:
        text = "The broker cannot be reached. The screen continues when it is back."
    elif model.trouble is None:
        text = "Connecting."
    elif not workers and not model.state.event_count:
        text = "No events from any worker yet. Start one (framework worker), or check the broker's URL above."
    elif not any(worker.alive for worker in workers):
        text = "No worker is online."
    else:
        text = "No task events yet. Workers send them when started with -E; press e to switch them on now."
    return Text(f"\n  {text}", "yellow")


# ---------------------------------------------------------------- pages


def _page(model: Model, width: int) -> RenderableType:
    task = model.task()
    if model.page == "help" or task is None:
        title, text = "Keys", _HELP
    elif model.page == "result":
        title = f"Result of {task.name} {task.uuid}"
        text = task.result if task.result is not None else task.exception or f"No result yet: the task is {task.state}."
    elif model.page == "traceback":
        title = f"Traceback of {task.name} {task.uuid}"
        text = task.traceback or "No traceback."
    else:
        title, text = f"{task.name} {task.uuid}", _info(task)
    lines = Text(text).wrap(Console(width=width), max(10, width - 2))
    model.scroll = min(model.scroll, max(0, len(lines) - model.height + 1))
    shown = lines[model.scroll : model.scroll + model.height]
    more = (
        f"  (lines {model.scroll + 1}-{model.scroll + len(shown)} of {len(lines)})" if len(lines) > model.height else ""
    )
    return Group(_fit(Text(f" {title}{more}", "bold"), width), *(Text.assemble(" ", line) for line in shown))


def _info(task: Task) -> str:
    times = {
        "sent",
        "received",
        "started",
        "succeeded",
        "failed",
        "retried",
        "revoked",
        "rejected",
        "cancelled",
        "timestamp",
    }
    rows = []
    for name, value in task.info().items():
        if name == "traceback":
            continue
        text = f"{_clock(value, date=True)}" if name in times else f"{value:.6f} s" if name == "runtime" else str(value)
        rows.append(f"{name:<12} {text}")
    return "\n".join(rows)


def _arguments(task: Task) -> str:
    if task.args is None:
        return ""
    return task.args if task.kwargs in (None, "", "{}") else f"{task.args} {task.kwargs}"


def _clock(stamp: float | None, *, date: bool = False) -> str:
    if not stamp:
        return ""
    moment = datetime.fromtimestamp(stamp)
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f") if date else moment.strftime("%H:%M:%S")


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:,.2f} s"
