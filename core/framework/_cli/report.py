"""``framework report``: prints information for a bug report."""

from __future__ import annotations

import click

from framework._cli.output import pass_session
from framework._cli.session import CommandSession
from framework.client.report import report


@click.command(help="Print versions, platform and settings (secrets masked), for a bug report.")
@pass_session
def command(session: CommandSession) -> int:
    """Print the report."""
    click.echo(report(session.app()), nl=False)
    return 0
