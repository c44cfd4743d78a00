"""``framework init``: writes a starter project, which runs unchanged on the embedded broker."""

from __future__ import annotations

import os

import click

from framework import exitcodes
from framework._cli.output import pass_session
from framework._cli.session import CommandSession
from framework.exceptions import FrameworkError

CONFIG_FILE = """\
# Settings of this project's tasks and workers. `framework config show --origin` prints the current settings and where
# they come from, `framework config schema` prints all settings. Environment variables (FRAMEWORK_WORKER_POOL=threads)
# and options (--pool=threads) override this file.

# The module that holds the App.
app = "tasks"

[broker]
# The broker holds the messages. Without a URL it is embedded: the file framework.db beside this one, and no server.
# url = "redis://localhost:6379/0"
# url = "amqp://guest:guest@localhost:5672//"
# url_file = "/run/secrets/broker_url"          # keep the password out of this file

[result]
# The result store keeps the results. The default is the file of the embedded broker.
# backend = "redis://localhost:6379/1"
expires = 86400                                 # seconds

[worker]
pool = "prefork"                                # processes; or threads, solo, …: see `framework plugins`
# concurrency = 4                               # default: the CPUs of this machine
loglevel = "INFO"

[task]
# Acknowledge a message when its task has ended: a crash repeats the task instead of losing it, so write tasks that may
# run twice. After three deliveries the message goes to the dead-letter queue.
acks_late = true
# time_limit = 300                              # seconds, then the task is stopped
"""

TASKS_FILE = '''\
"""The tasks of this project."""

from framework import App

app = App("tasks")


@app.task
def add(x: int, y: int) -> int:
    """Return the sum of two numbers."""
    return x + y
'''


class FileExists(FrameworkError):
    """A file of the starter project exists already, or cannot be written."""

    exit_code = exitcodes.CANT_CREATE


@click.command(help="Write framework.toml and tasks.py into DIRECTORY, default the current one. Overwrites nothing.")
@click.argument("directory", default=".")
@pass_session
def command(session: CommandSession, directory: str) -> int:
    """Write the starter project."""
    session.enter()
    files = {"framework.toml": CONFIG_FILE, "tasks.py": TASKS_FILE}
    there = [name for name in files if os.path.exists(os.path.join(directory, name))]
    if there:
        place = "here" if directory == "." else f"in {directory}"
        raise FileExists(
            f"{' and '.join(there)} {'exist' if len(there) > 1 else 'exists'} {place} already; nothing was written"
        )
    try:
        os.makedirs(directory, exist_ok=True)
        for name, text in files.items():
            with open(os.path.join(directory, name), "x", encoding="utf-8") as stream:
                stream.write(text)
    except OSError as error:
        raise FileExists(f"cannot write into {directory}: {error.strerror}") from None
    if not session.quiet:
        click.echo(f"Wrote {' and '.join(os.path.normpath(os.path.join(directory, name)) for name in files)}. Next:\n")
        if directory != ".":
            click.echo(f"  cd {directory}")
        click.echo("  framework worker")
        click.echo("  framework call tasks.add --args '[2, 3]' --wait        # in a second terminal")
    return exitcodes.OK
