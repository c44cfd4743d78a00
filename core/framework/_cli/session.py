"""The context of a sub-command: the global options, the configuration and the application."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from framework.exceptions import AppNotFound, ConfigError

if TYPE_CHECKING:
    from framework._config.sources import Sources
    from framework.client.app import App
    from framework.client.locate import LocatedApp
    from framework.worker.process.background import Background


class CommandSession:
    """One run of the command line. Reads the configuration and imports the application on first use."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        """Store `args`, the command line; None: that of this process."""
        self._args = args
        self.target: str | None = None
        self.broker: str | None = None
        self.result_backend: str | None = None
        self.config: str | None = None
        self.workdir: str | None = None
        self.no_color = False
        self.quiet = False
        self.show_traceback = False
        #: Settings given as options of the sub-command: flat name: (spelling, value).
        self.flags: dict[str, tuple[str, Any]] = {}
        #: The working directory at the start; None: the current one.
        self.origin: str | None = None
        #: This process's side of ``--detach``: reports the start, or its failure, to the parent process.
        self.background: Background | None = None
        self._sources: Sources | None = None

    def name_process(self, name: str) -> None:
        """Show `name`, in front of the options of the command line, as the title of this process."""
        if self._args is None:
            self._set_title([name, *_masked(sys.argv[1:])])

    def _set_title(self, words: Iterable[str]) -> None:
        import setproctitle  # memory: few commands have a title

        setproctitle.setproctitle(" ".join(words))

    def repeat_command(self, executable: str | None = None) -> list[str]:
        """Return the command that repeats this one; `executable`: default this Python."""
        own = sys.orig_argv[1:] if self._args is None else ["-m", "framework", *self._args]
        return [executable or sys.executable, *own]

    def sources(self) -> Sources:
        """Read the config file, the environment and the flags once, and install them for this process.

        Raises `ConfigError`.
        """
        if self._sources is None:
            # Start-up time: `framework --help` reads no configuration.
            from framework._config import sources
            from framework.client import locate

            self.enter()
            if self._args is None and (shown := _masked(sys.orig_argv)) != sys.orig_argv:
                # Every user of the machine can read the command lines of its processes.
                self._set_title(shown)
            flags = dict(self.flags)
            if self.broker is not None:
                # The flag replaces separate read and write brokers in the file as well.
                flags.update(
                    broker_url=("--broker", self.broker),
                    broker_read_url=("--broker", None),
                    broker_write_url=("--broker", None),
                )
            if self.result_backend is not None:
                flags["result_backend"] = ("--result-backend", self.result_backend)
            if self.no_color:
                flags["worker_log_color"] = ("--no-color", False)
            if self.target is not None:
                flags["app"] = ("--app", self.target)
            target = self.target or os.environ.get("FRAMEWORK_APP") or os.environ.get("CELERY_APP")
            here = locate.extend_path()
            self._sources = sources.load(self.config, [here, *locate.home_of(target)], flags=flags)
            sources.install(self._sources)
        return self._sources

    def enter(self) -> None:
        """Change to ``--workdir``. Raises `ConfigError`."""
        if self.workdir is not None:
            self.origin = os.getcwd()
            try:
                os.chdir(self.workdir)
            except OSError as error:
                raise ConfigError(f"cannot change to the directory {self.workdir}: {error.strerror}") from None
            self.workdir = None

    def locate(self) -> LocatedApp:
        """Import the application. Raises `AppNotFound` or `ConfigError`."""
        # Start-up time, as in `sources`.
        from framework.client.locate import find_app

        return find_app(None, self.sources().value("app"))

    def app(self) -> App:
        """Return the application, or an empty one if none is named: enough to use the broker.

        Raises `ConfigError` if the named application cannot be imported.
        """
        named = self.sources().value("app")
        try:
            found: App = self.locate().app
        except AppNotFound:
            # Start-up time: an application that is found has imported this already.
            from framework.client.app import App

            if named is not None or any(os.path.isfile(name) for name in ("app.py", "tasks.py")):
                raise
            found = App("framework")
        return found


def _masked(words: Iterable[str]) -> list[str]:
    """Return the words of a command line without passwords."""
    from framework.server_url import mask  # start-up time: `framework --help` reads no configuration

    return [mask(word) for word in words]
