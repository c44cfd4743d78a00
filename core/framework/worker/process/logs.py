"""The worker's log: set up once in the main process, and again in each process that runs tasks.

1. The format, levels and line texts are those that users of the guide grep for.
2. A hook `setup_logging` replaces all of it.
3. A line is text, coloured on a terminal, or JSON; with the task that wrote it.
4. A log file is watched: a rotated one is opened anew, by the worker and by each of its children.
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
    """A log file that is opened anew once it has been moved or removed, in this process and for its descriptors.

    Where standard output and error go into the file too, as in a worker in the background, they follow: what a crash or
    a library writes there is found beside the rest.
    """

    def reopenIfNeeded(self) -> None:  # noqa: N802 - the standard library's name
        """Open the file anew if another one, or none, has its name."""
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
    """Set up the root logger as the ``[worker]`` table asks, or have the hook `setup_logging` do it.

    `index` is the process index for ``%i`` in the file's name (0: the main process).
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
    # Chatty libraries speak at DEBUG about every frame; that is never what -l debug is for.
    for name in ("amqp", "kombu", "stevedore", "asyncio"):
        logging.getLogger(name).setLevel(max(level, logging.INFO))
    if (after := hooks.bind("after_setup_logger")) is not None:
        after(logger=root, loglevel=level)


class LogStream:
    """A text stream whose lines go to a logger: what tasks print is found in the log, with their name and id."""

    encoding = "utf-8"

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._local = threading.local()

    def write(self, text: str) -> int:
        """Log every line of `text` that is not blank. What a log handler itself prints is dropped, not logged again."""
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
        """Say no."""
        return False

    def fileno(self) -> int:
        """Return the descriptor of the real standard error: libraries that want one write there."""
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else 2


def redirect_stdouts(level: str) -> None:
    """Have `print` and tracebacks of this process go to the log at `level`."""
    stream = LogStream(logging.getLogger("framework.task.output"), logging.getLevelName(level))
    sys.stdout = sys.stderr = stream


# ---------------------------------------------------------------- what a line looks like

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
