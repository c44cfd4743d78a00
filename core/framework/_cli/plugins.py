"""``framework plugins``: lists the installed plugins and checks them."""

from __future__ import annotations

import click

from framework import exitcodes
from framework._boot import catalog, loader
from framework._cli.output import json_option, pass_session, print_json, print_table
from framework._cli.program import Section
from framework._cli.session import CommandSession
from framework.exceptions import PluginError, PluginUnavailable


@click.group(
    cls=Section, invoke_without_command=True, help="List the installed plugins (without importing them), or check them."
)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the plugins when no sub-command is given."""
    if ctx.invoked_subcommand is None:
        _list(ctx.ensure_object(CommandSession), as_json)


def _list(session: CommandSession, as_json: bool) -> None:
    found = catalog.plugins()
    if as_json:
        print_json(found)
        return
    rows = [(info.family, info.name, info.target, f"{info.distribution} {info.version}") for info in found]
    print_table(session, ("family", "name", "target", "distribution"), rows)


@command.command("list", help="List the installed plugins; imports none of them.")
@json_option
@pass_session
def list_(session: CommandSession, as_json: bool) -> None:
    """Print a table of the installed plugins."""
    _list(session, as_json)


@command.command(help="Load every installed plugin; report missing dependencies and how to install them.")
@json_option
@pass_session
def doctor(session: CommandSession, as_json: bool) -> int:
    """Load all plugins. The exit code is 0 unless one is broken; a missing extra is reported, and exits 0."""
    reports = []
    for info in catalog.plugins():
        state, problem = "ok", ""
        try:
            loader.load(info.family, info.name)
        except PluginUnavailable as error:
            state, problem = "missing", str(error)
        except PluginError as error:
            state, problem = "broken", str(error)
        reports.append(
            {
                "family": info.family,
                "name": info.name,
                "distribution": info.distribution,
                "version": info.version,
                "state": state,
                "problem": problem,
            }
        )
    if as_json:
        print_json(reports)
    else:
        rows = [(report["family"], report["name"], report["state"]) for report in reports]
        print_table(session, ("family", "name", "state"), rows)
        for report in reports:
            if report["problem"]:
                click.echo(f"{report['state']}: {report['problem']}")
    return exitcodes.CONFIG if any(report["state"] == "broken" for report in reports) else exitcodes.OK
