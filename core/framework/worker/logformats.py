"""What a line of the log looks like: text, coloured on a terminal, or JSON; with the task that wrote it."""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from framework.client.request import Context

#: The value of ``log_format`` that asks for one JSON object a line.
JSON: Final = "json"
_COLORS: Final = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "35", logging.DEBUG: "34"}
_TASK_LOGGER: Final = "framework.task"


def make_formatter(worker: Any, logfile: str | None) -> logging.Formatter:
    """Return the formatter that the ``[worker]`` table asks for."""
    if worker.log_format == JSON:
        return JsonFormatter()
    plain = logging.Formatter(worker.log_format, worker.log_datefmt)
    task = logging.Formatter(worker.task_log_format, worker.task_log_datefmt or worker.log_datefmt)
    return TextFormatter(plain, task, color=_wants_color(worker, logfile))


def _wants_color(worker: Any, logfile: str | None) -> bool:
    if worker.log_color is not None:
        return bool(worker.log_color)
    # Of the real stream: tasks that print write into the log, which is no terminal.
    stream = sys.__stderr__
    return not logfile and not os.environ.get("NO_COLOR") and stream is not None and stream.isatty()


def _task_of(record: logging.LogRecord) -> Context | None:
    """Return the request of the task that wrote `record` by a logger of tasks, else None."""
    if not record.name.startswith(_TASK_LOGGER):
        return None
    from framework.client.request import current_request

    request = current_request()
    return request if request is not None and request.id else None


class TextFormatter(logging.Formatter):
    """Adds the name and id of the task to records of `framework.task` loggers."""

    def __init__(self, plain: logging.Formatter, task: logging.Formatter, *, color: bool) -> None:
        """`plain` and `task` format records from outside and from inside of tasks."""
        super().__init__()
        self._plain = plain
        self._task = task
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of `record`."""
        request = _task_of(record)
        if request is not None:
            record.task_id = request.id
            record.task_name = request.task
            text = self._task.format(record)
        else:
            text = self._plain.format(record)
        color = _COLORS.get(record.levelno) if self._color else None
        return f"\033[{color}m{text}\033[0m" if color else text


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, process, pid, message; of a task also its name and id."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `record` as one line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.processName,
            "pid": record.process,
            "message": record.getMessage(),
        }
        request = _task_of(record)
        if request is not None:
            line["task"] = request.task
            line["id"] = request.id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            return msgspec.json.encode(line).decode()
        except UnicodeEncodeError:  # lone surrogates, as in a file name that is not UTF-8
            line = {
                key: value.encode(errors="replace").decode() if isinstance(value, str) else value
                for key, value in line.items()
            }
            return msgspec.json.encode(line).decode()
