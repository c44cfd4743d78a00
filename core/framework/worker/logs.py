"""The worker's log: set up once in the main process, and again in each process that runs tasks.

1. The format, levels and line texts are those that users of the guide grep for.
2. A hook `setup_logging` replaces all of it.
3. A log file is watched: a rotated one is opened anew, by the worker and by each of its children.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from framework.exceptions import ConfigError
from framework.worker.logformats import make_formatter

if TYPE_CHECKING:
    from framework._plugins.hooks import Hooks


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
    from framework._config.nodename import file_path

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
