"""``framework init``: writes a starter project that runs as it is, with the embedded broker."""

from __future__ import annotations

import os

import click

from framework import exitcodes
from framework._cli.output import pass_session
from framework._cli.session import CommandSession
from framework.exceptions import FrameworkError

CONFIG_FILE = """\
# Settings of this project's tasks and workers. `framework config show --origin` prints what is in force and why,
# `framework config schema` prints everything there is. Environment variables (FRAMEWORK_WORKER_POOL=threads) and
# options (--pool=threads) win over this file.

# The module that holds the App.
app = "tasks"

[broker]
# Where messages wait. Without a URL: an embedded broker, the file framework.db beside this one; no server needed.
# url = "redis://localhost:6379/0"
# url = "amqp://guest:guest@localhost:5672//"
# url_file = "/run/secrets/broker_url"          # keep the password out of this file

[result]
# Where results are kept. With the embedded broker they are in the same file.
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
    """A file that would be written is there already."""

    exit_code = exitcodes.CANT_CREATE


@click.command(help="Write framework.toml and tasks.py into DIRECTORY, default the current one. Overwrites nothing.")
@click.argument("directory", default=".")
@pass_session
def command(session: CommandSession, directory: str) -> int:
    """Write."""
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
