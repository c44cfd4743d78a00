"""The contract of a sub-command, an entry point of ``framework.commands``.

A sub-command is a `click.Command`; `click.pass_obj` passes it a `CommandLine`. The first line of its module's docstring
is its line in ``framework --help``, which imports no sub-command. The global options, ``--app`` and others, are added
to it, except those that it has itself. What it returns is the exit code (None: 0); a `FrameworkError` that it raises is
printed as a sentence.

    @click.command(help="Count the tasks of the application.")
    @click.pass_obj
    def command(line: CommandLine) -> None:
        click.echo(len(line.app().tasks))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from framework.client.app import App


class CommandLine(Protocol):
    """One run of the program `framework`, with its global options."""

    #: ``--no-color``.
    no_color: bool
    #: ``--quiet``: print only the requested output.
    quiet: bool

    def app(self) -> App:
        """Return the application that ``--app``, the environment or the config file names.

        Without a name: an empty application, enough to use the broker. Raises `ConfigError`.
        """
        ...
