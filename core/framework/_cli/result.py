"""``framework result ID``: waits for a result and prints it."""

from __future__ import annotations

from typing import Any

import click

from framework import exitcodes
from framework._cli.output import json_option, pass_session, print_json
from framework._cli.session import CommandSession
from framework.exceptions import ConfigError
from framework.exceptions import TimeoutError as NoResult
from framework.wire.safe_repr import printable

#: Exit code of `framework result` and `framework call --wait` when the task failed.
TASK_FAILED = 1


@click.command(help="Wait for the result of the task with the id ID and print it. Exit code 1: the task failed.")
@click.argument("task_id", metavar="ID")
@click.option("-t", "--task", metavar="NAME", help="Name of the task (kept for old scripts; not needed).")
@click.option("--traceback", "with_traceback", is_flag=True, help="Print the task's traceback too.")
@click.option("--timeout", type=float, metavar="S", help="Wait at most this long. Default: for ever.")
@json_option
@pass_session
def command(
    session: CommandSession, task_id: str, task: str | None, with_traceback: bool, timeout: float | None, as_json: bool
) -> int:
    """Wait for the result and print it."""
    app = session.app()
    if app.conf.settings.result.backend is None:
        raise ConfigError(
            'no result store is configured: set backend under [result], as in backend = "redis://localhost:6379/0"'
        )
    return report(app.AsyncResult(task_id), timeout, with_traceback, as_json)


def report(result: Any, timeout: float | None, with_traceback: bool, as_json: bool) -> int:
    """Wait for `result` and print it; return the exit code."""
    try:
        value = result.get(timeout=timeout, propagate=False)
    except NoResult:
        click.echo(
            f"framework: error: no result of {result.id} within {timeout:g} s; its state is {result.state}", err=True
        )
        return exitcodes.UNAVAILABLE
    failed = isinstance(value, BaseException)
    if as_json:
        shown = f"{type(value).__name__}: {value}" if failed else value
        print_json({"id": result.id, "status": result.state, "result": shown, "traceback": result.traceback})
    elif failed:
        click.echo(printable(f"{result.state}: {type(value).__name__}: {value}", "\n\t"), err=True)
        if with_traceback and result.traceback:
            click.echo(printable(result.traceback, "\n\t"), err=True)
    else:
        click.echo(printable(value, "\n\t") if isinstance(value, str) else repr(value))
    return TASK_FAILED if failed else exitcodes.OK
