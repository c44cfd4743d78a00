"""The worker's log: set up once in the main process, and again in each process that runs tasks.

1. The formats and levels are those of the Workers Guide.
2. A hook `setup_logging` replaces the whole setup.
3. A line is text, coloured on a terminal, or JSON; it names the task that wrote it. What came from outside cannot forge
   one, nor command a terminal.
4. The worker and each of its children reopen a log file that was rotated.
5. A log that cannot be written never disturbs the worker: lines are dropped and counted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec

from framework._config.nodename import file_path
from framework.client.request import current_request
from framework.exceptions import ConfigError, SoftTimeLimitExceeded
from framework.wire.safe_repr import NAME_MAX, printable, printable_json

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from framework._boot.hooks import Hooks
    from framework.client.request import Context


#: The most bytes that a line of output is kept for its end.
_LINE_MAX: Final = 64 * 1024


def write_to(fd: int, data: bytes) -> int:
    """Write `data` to the descriptor `fd`; return how many bytes of it were written. Raises `OSError`."""
    # Not os.write: eventlet's version repeats the call for ever once the reader of a pipe is gone.
    written = io.FileIO(fd, "wb", closefd=False).write(data)
    if written is None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return written


class LogOutput(logging.StreamHandler[TextIO]):
    """Writes log lines to a stream; drops and counts them while it cannot be written.

    It writes to the descriptor: a line that a full disk or a dead pipe refused must not stay in a buffer.
    """

    _dropped = 0
    _reason = ""
    #: Whether only a part of the last line was written.
    _torn = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record`, after a line that counts those dropped before it."""
        try:
            text = f"{self.format(record)}\n"
            if self._dropped:
                text = f"{self.format(self._count_dropped())}\n{text}"
        except Exception:  # noqa: BLE001 - the arguments do not fit the format: printed, as by every handler
            self.handleError(record)
            return
        try:
            stream = self._writable()
            self._write(stream.fileno(), text.encode(stream.encoding, "backslashreplace"))
            self._dropped = 0
        except (OSError, ValueError) as error:  # ValueError: closed
            self._reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            if not self._dropped:
                self._report()
            self._dropped += 1

    def _write(self, fd: int, data: bytes) -> None:
        if self._torn:
            data = b"\n" + data
        while data:
            data = data[write_to(fd, data) :]
            self._torn = bool(data)

    def _count_dropped(self) -> logging.LogRecord:
        values = (self._dropped, "" if self._dropped == 1 else "s", self._reason)
        text = "%d line%s of the log could not be written and were dropped: %s"
        return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, values, None)

    def _writable(self) -> TextIO:
        """Return the stream. Raises `OSError`."""
        return self.stream

    def _report(self) -> None:
        """Report that lines are dropped from now on; nobody would read it if this is standard error."""


class LogFile(LogOutput, logging.FileHandler):
    """A log file that is reopened after it was moved or removed, also for this process's descriptors 1 and 2.

    A worker in the background writes standard output and error into the same file, so that the output of a crash or of
    a library stays next to the log lines.
    """

    def _writable(self) -> TextIO:
        if self.stream is None:  # closed, at exit
            self.stream = self._open()
        before = os.fstat(self.stream.fileno())
        try:
            same = os.path.samestat(os.stat(self.baseFilename), before)
        except FileNotFoundError:
            same = False
        if not same:
            old, self.stream = self.stream, self._open()
            old.close()
            for standard in (1, 2):
                with contextlib.suppress(OSError):  # closed
                    if os.path.samestat(os.fstat(standard), before):
                        os.dup2(self.stream.fileno(), standard)
        return self.stream

    def _report(self) -> None:
        # The processes of a worker share the file: the one that gets the lock reports for all. It lasts until the file
        # is closed or the process ends.
        with contextlib.suppress(OSError):
            if self.stream is not None:
                fcntl.flock(self.stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            text = f"framework: the log file {self.baseFilename} cannot be written: {self._reason}; "
            write_to(2, f"{text}lines are dropped and counted until it can\n".encode())


def write_stdout(text: str) -> None:
    """Write `text` to the real standard output, if anybody can read it: a pipe or a terminal may be gone."""
    stream = sys.__stdout__
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
            write_to(stream.fileno(), text.encode(stream.encoding, "backslashreplace"))


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
        handler = LogOutput(sys.__stderr__)
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


_handle_error = logging.Handler.handleError


def _handle_or_raise(handler: logging.Handler, record: logging.LogRecord) -> None:
    if isinstance(sys.exception(), SoftTimeLimitExceeded):
        raise
    _handle_error(handler, record)


def pass_on_limits() -> None:
    """Have log handlers raise again the soft time limit of the task that writes the line, and not print it."""
    logging.Handler.handleError = _handle_or_raise  # type: ignore[method-assign,assignment]


class LogStream(io.RawIOBase):
    """A stream that logs its lines: the output of tasks is in the log, with the task's name and id.

    `print` writes a line in several parts: a line is logged when it is complete, flushed or too long, or its task ends.
    """

    name = "<log>"

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._local = threading.local()
        #: Lines begun, by the task that writes them, or else the thread.
        self.begun: dict[object, bytes] = {}

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: ReadableBuffer) -> int:
        """Log every line of `data` that is complete. Output of a log handler is dropped, not logged again."""
        data = bytes(data)
        if not getattr(self._local, "writing", False):
            key = self._key()
            *lines, rest = (self.begun.pop(key, b"") + data.replace(b"\r\n", b"\n")).replace(b"\r", b"\n").split(b"\n")
            if len(rest) > _LINE_MAX:
                lines.append(rest)
            elif rest:
                self.begun[key] = rest
            self._log(lines)
        return len(data)

    def _key(self) -> object:
        # A request has no equality of its own, so it is a key.
        return current_request() or threading.get_ident()

    def _log(self, lines: Iterable[bytes]) -> None:
        self._local.writing = True
        try:
            for line in lines:
                if line.strip():
                    self._logger.log(self._level, "%s", line.decode("utf-8", "backslashreplace"))
        finally:
            self._local.writing = False

    def flush(self) -> None:
        """Log the line that was begun."""
        # Checked first: the interpreter flushes at its very end, when hardly anything works any more.
        if self.begun and not getattr(self._local, "writing", False):
            self._log([self.begun.pop(self._key(), b"")])

    def close(self) -> None:
        """Log the line that was begun; other tasks still write."""
        self.flush()

    def fileno(self) -> int:
        """Return the descriptor of the real standard error, for libraries that write to a descriptor."""
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else 2


def redirect_stdouts(level: str) -> LogStream:
    """Redirect `sys.stdout` and `sys.stderr` of this process to the log, at `level`."""
    stream = LogStream(logging.getLogger("framework.task.output"), logging.getLevelName(level))
    sys.stdout = sys.stderr = io.TextIOWrapper(stream, "utf-8", "backslashreplace", "\n", write_through=True)
    return stream


# ---------------------------------------------------------------- formatting

#: The value of ``log_format`` that selects one JSON object a line.
JSON: Final = "json"
_COLORS: Final = {logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "35", logging.DEBUG: "34"}
_TASK_LOGGER: Final = "framework.task"


def make_formatter(worker: Any, logfile: str | None) -> logging.Formatter:
    """Return the formatter that the ``[worker]`` table selects."""
    if worker.log_format == JSON:
        return JsonFormatter()
    plain = _Lines(worker.log_format, worker.log_datefmt)
    task = _Lines(worker.task_log_format, worker.task_log_datefmt or worker.log_datefmt)
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


#: The most characters of a text in a record of the worker itself, as of an exception.
_TEXT_MAX: Final = 4096


class _Shown:
    """An argument of a record, which may come from outside: cut, and with control characters escaped."""

    def __init__(self, value: object, maxlen: int) -> None:
        self._value = value
        self._maxlen = maxlen

    def __str__(self) -> str:
        return printable(str(self._value), "", self._maxlen)

    def __repr__(self) -> str:
        return printable(repr(self._value), "", self._maxlen)


def _message(record: logging.LogRecord) -> str:
    """Return the message of `record`; in the worker's own records the arguments are cut.

    A name is cut at `NAME_MAX` characters, a text at the end at `_TEXT_MAX`, and so is each line of a stack at the end.
    """
    text, values = record.getMessage(), record.args
    if len(text) <= NAME_MAX and text.isprintable():
        return text
    if not record.name.startswith("framework") or record.name.startswith(_TASK_LOGGER) or not isinstance(values, tuple):
        return text
    template = str(record.msg)
    shown: list[object] = [
        value if isinstance(value, int | float) else _Shown(value, NAME_MAX if isinstance(value, str) else _TEXT_MAX)
        for value in values
    ]
    if values and template.endswith("\n%s"):
        shown[-1] = _cut_lines(str(values[-1]))
    elif values and (template.endswith(": %s") or template == "%s"):
        shown[-1] = _Shown(values[-1], _TEXT_MAX)
    return template % tuple(shown)


def _cut_lines(text: str) -> str:
    return "\n".join(printable(line, "\t", _TEXT_MAX) for line in text.split("\n"))


class _Lines(logging.Formatter):
    """Formats a record; its further lines are indented, and control characters escaped: it cannot forge another."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        """Return the first part of the text."""
        record.message = _message(record)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the standard library's name
        """Return the text of an exception."""
        return _cut_lines(super().formatException(ei))

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of `record`."""
        text = super().format(record)
        return text if text.isprintable() else printable(text, "\n\t").replace("\n", "\n  ")


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
            record.task_id = printable(str(request.id), "", NAME_MAX)
            record.task_name = printable(str(request.task), "", NAME_MAX)
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
            "message": _message(record),
        }
        request = _task_of(record)
        if request is not None:
            line["task"] = printable(str(request.task), "", NAME_MAX)
            line["id"] = printable(str(request.id), "", NAME_MAX)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            return printable_json(msgspec.json.encode(line).decode())
        except UnicodeEncodeError:  # a lone surrogate, for example from a file name that is not UTF-8
            line = {
                key: value.encode(errors="replace").decode() if isinstance(value, str) else value
                for key, value in line.items()
            }
            return printable_json(msgspec.json.encode(line).decode())
