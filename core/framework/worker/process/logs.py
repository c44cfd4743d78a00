"""The worker's log: set up once in the main process, and again in each process that runs tasks.

1. The formats and levels are those of the Workers Guide.
2. A hook `setup_logging` replaces the whole setup.
3. A line is text, coloured on a terminal, or JSON; it names the task that wrote it.
4. The worker and each of its children reopen a log file that was rotated.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from framework._config.nodename import file_path
from framework.client.request import current_request
from framework.exceptions import ConfigError

if TYPE_CHECKING:
    from framework._boot.hooks import Hooks
    from framework.client.request import Context


class LogFile(logging.handlers.WatchedFileHandler):
    """A log file that is reopened after it was moved or removed, also for this process's descriptors 1 and 2.

    A worker in the background writes standard output and error into the same file, so that the output of a crash or of
    a library stays next to the log lines.
    """

    def reopenIfNeeded(self) -> None:  # noqa: N802 - the standard library's name
        """Reopen the file if its name belongs to another file, or to none."""
        before = self.dev, self.ino
        super().reopenIfNeeded()
        if (self.dev, self.ino) == before or self.stream is None:
            return
        for standard in (1, 2):
            with contextlib.suppress(OSError):  # closed
                status = os.fstat(standard)
                if (status.st_dev, status.st_ino) == before:
                    os.dup2(self.stream.fileno(), standard)


def setup_logging(worker: Any, hostname: str, hooks: Hooks, index: int = 0) -> None:
    """Set up the root logger by the ``[worker]`` table, or call the hook `setup_logging` instead.

    `index` replaces ``%i`` in the file's name (0: the main process).
    Raises `ConfigError` when the log file cannot be opened.
    """
    level = logging.getLevelName(worker.loglevel)
    logfile = file_path(worker.logfile, hostname, index) if worker.logfile else None
    if (custom := hooks.bind("setup_logging")) is not None:
        custom(loglevel=level, logfile=logfile)
        return
    handler: logging.Handler
    if logfile:
        try:
            handler = LogFile(logfile, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"the log file {logfile} cannot be opened: {error.strerror}") from error
    else:
        handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(make_formatter(worker, logfile))
    root = logging.getLogger()
    if worker.hijack_root_logger:
        for other in root.handlers[:]:
            root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(level)
    # These libraries log every frame at DEBUG, which would hide the worker's own debug lines.
    for name in ("amqp", "kombu", "stevedore", "asyncio"):
        logging.getLogger(name).setLevel(max(level, logging.INFO))
    if (after := hooks.bind("after_setup_logger")) is not None:
        after(logger=root, loglevel=level)


class LogStream:
    """A text stream that logs its lines: the output of tasks is in the log, with the task's name and id."""

    encoding = "utf-8"

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._local = threading.local()

    def write(self, text: str) -> int:
        """Log every line of `text` unless all are blank. Output of a log handler is dropped, not logged again."""
        if text.strip() and not getattr(self._local, "writing", False):
            self._local.writing = True
            try:
                for line in text.rstrip("\n").splitlines():
                    self._logger.log(self._level, "%s", line)
            finally:
                self._local.writing = False
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of `lines`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Do nothing: lines are logged as they are written."""

    def isatty(self) -> bool:
        """Return False: a logger is no terminal."""
        return False

    def fileno(self) -> int:
        """Return the descriptor of the real standard error, for libraries that write to a descriptor."""
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else 2


def redirect_stdouts(level: str) -> None:
    """Redirect `sys.stdout` and `sys.stderr` of this process to the log, at `level`."""
    stream = LogStream(logging.getLogger("framework.task.output"), logging.getLevelName(level))
    sys.stdout = sys.stderr = stream


# ---------------------------------------------------------------- formatting

#: The value of ``log_format`` that selects one JSON object a line.
JSON: Final = "json"
_COLORS: Final = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "35", logging.DEBUG: "34"}
_TASK_LOGGER: Final = "framework.task"


def make_formatter(worker: Any, logfile: str | None) -> logging.Formatter:
    """Return the formatter that the ``[worker]`` table selects."""
    if worker.log_format == JSON:
        return JsonFormatter()
    plain = logging.Formatter(worker.log_format, worker.log_datefmt)
    task = logging.Formatter(worker.task_log_format, worker.task_log_datefmt or worker.log_datefmt)
    return TextFormatter(plain, task, color=_use_color(worker, logfile))


def _use_color(worker: Any, logfile: str | None) -> bool:
    if worker.log_color is not None:
        return bool(worker.log_color)
    # The real stream: `sys.stderr` may be redirected to the log, which is no terminal.
    stream = sys.__stderr__
    return not logfile and not os.environ.get("NO_COLOR") and stream is not None and stream.isatty()


def _task_of(record: logging.LogRecord) -> Context | None:
    """Return the request of the task that wrote `record` with a `framework.task` logger; None: no task did."""
    if not record.name.startswith(_TASK_LOGGER):
        return None
    request = current_request()
    return request if request is not None and request.id else None


class TextFormatter(logging.Formatter):
    """Adds the name and id of the task to records of `framework.task` loggers."""

    def __init__(self, plain: logging.Formatter, task: logging.Formatter, *, color: bool) -> None:
        """`plain` formats records from outside of tasks, `task` those from inside."""
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
    """Formats one JSON object a line: time (UTC), level, logger, process, pid, message, and the task's name and id."""

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
        except UnicodeEncodeError:  # a lone surrogate, for example from a file name that is not UTF-8
            line = {
                key: value.encode(errors="replace").decode() if isinstance(value, str) else value
                for key, value in line.items()
            }
            return msgspec.json.encode(line).decode()
