"""A user's directory: an application, what is run there, and the workers that stay behind in the background.

1. `run` runs a command line there to its end; `ok` does and fails unless it went well.
2. `pid` reads a pidfile; `alive` are the processes that live there.
3. `close` kills whatever still has the directory as its current one, and nothing else.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil

from support.processes import alive, kill_all, members
from support.wait import wait_for
from support.workers import run_command

TASKS = """
import os
from framework import App
from framework.log import get_task_logger

app = App("tasks")
logger = get_task_logger(__name__)

@app.task
def add(x, y):
    return x + y

@app.task
def say(text):
    logger.warning("%s", text)
    return os.getpid()
"""


class Place:
    """The directory, with a `tasks.py` and a `framework.toml` in it."""

    def __init__(self, directory: Path, broker: str, config: str = "") -> None:
        self.path = directory
        directory.mkdir(exist_ok=True)
        (directory / "tasks.py").write_text(TASKS)
        (directory / "framework.toml").write_text(
            f'app = "tasks"\n[broker]\nurl = "{broker}"\n[result]\nbackend = "{broker}"\n{config}'
        )

    def run(self, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run `framework <args>` here."""
        return run_command(*args, app_dir=self.path, env=env)

    def ok(self, *args: str, env: dict[str, str] | None = None) -> str:
        """Run it, see that it went well, and return what it printed."""
        done = self.run(*args, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pid(self, name: str) -> int:
        """Return what the pidfile `name` says."""
        return int((self.path / name).read_text())

    def text(self, name: str) -> str:
        """Return the text of a file; nothing when there is none."""
        path = self.path / name
        return path.read_text() if path.exists() else ""

    def ready(self, logfile: str, count: int = 1) -> None:
        """Wait until a worker has written into `logfile` that it is ready."""
        wait_for(lambda: self.text(logfile).count(" ready.") >= count, 20, lambda: f"ready: {self.text(logfile)}")

    def gone(self, pid: int) -> None:
        """Wait until the process `pid` has ended."""
        wait_for(lambda: not alive(pid), 20, f"the end of process {pid}")

    def alive(self) -> list[psutil.Process]:
        """Return the processes that live here."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.path):
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def close(self) -> None:
        """Leave nothing behind."""
        for process in self.alive():
            kill_all([*members(process.pid), process])
