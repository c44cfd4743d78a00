"""``framework config``: shows, checks and describes the configuration."""

from __future__ import annotations

from typing import Any

import click

from framework import exitcodes
from framework._boot import loader
from framework._cli.output import json_option, pass_session, print_json, print_table
from framework._cli.program import Section
from framework._cli.session import CommandSession
from framework._config.autoscale import autoscale_range
from framework._config.options import options
from framework._config.show import display_value, json_schema
from framework._config.sources import Config, resolve
from framework.client.routing import select_queues
from framework.exceptions import AppNotFound


@click.group(cls=Section, help="Show, check and describe the configuration.")
def command() -> None:
    """Group the sub-commands."""


@command.command(help="Show the settings that differ from the default, with passwords masked.")
@click.option("--all", "everything", is_flag=True, help="Show settings with default values too.")
@click.option("--origin", is_flag=True, help="Show where each value comes from, with file and line.")
@json_option
@pass_session
def show(session: CommandSession, everything: bool, origin: bool, as_json: bool) -> None:
    """Print the settings."""
    config = resolved(session)
    found = []
    for option in options().values():
        if not everything and option.name not in config.origins:
            continue
        found.append((option, display_value(option, config.value(option)), config.origin(option.name)))
    if as_json:
        print_json(
            {
                option.name: {"value": value, "layer": where.layer, "source": where.source, "line": where.line}
                if origin
                else value
                for option, value, where in found
            }
        )
        return
    columns = ("setting", "value", "origin") if origin else ("setting", "value")
    rows = [(option.label, _text(value), str(where))[: len(columns)] for option, value, where in found]
    print_table(session, columns, rows)


@command.command(help="Check the config file, the environment and the application, and load every chosen plugin.")
@pass_session
def check(session: CommandSession) -> int:
    """Check the configuration. Raises a `FrameworkError` for the first problem."""
    # Start-up time: `show` and `schema` do not need the worker.
    from framework.worker.steps.autoscale import choose

    config = resolved(session)
    settings = config.settings
    transport = loader.make_transport(settings)
    loader.make_write_transport(settings)
    loader.make_result_store(settings, transport)
    loader.load("pool", settings.worker.pool)
    if settings.worker.autoscale is not None:
        autoscale_range(settings.worker.autoscale)
        choose(settings)
    select_queues(settings, settings.worker.queues, settings.worker.exclude_queues)
    where = config.sources.path or "no config file; defaults, environment and app.conf"
    if not session.quiet:
        click.echo(f"The configuration is right ({where}).")
    return exitcodes.OK


@command.command(help="Print the JSON Schema of the config file, for editors.")
def schema() -> None:
    """Print the schema."""
    print_json(json_schema())


def resolved(session: CommandSession) -> Config:
    """Resolve the settings, including those of the application if one is found."""
    sources = session.sources()
    try:
        located = session.locate()
    except AppNotFound:
        if sources.value("app") is not None:
            raise
        for note in sources.notes:
            click.echo(note, err=True)
        return resolve(sources)
    config: Config = located.app.conf.config
    return config


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "-"
    return value if isinstance(value, str) else repr(value)
