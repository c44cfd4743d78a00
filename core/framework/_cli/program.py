"""The program `framework`: finds the sub-command, adds the global options, and prints errors as sentences.

1. Lists every sub-command in `COMMANDS` with its module and a line of help, so that ``--help`` and completion import
   none of them.
2. Accepts the global options before and after the sub-command: `Section` adds them to every command.
3. Prints a `FrameworkError` as one sentence on stderr and returns its exit code; ``--traceback`` adds the traceback.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from framework import __version__, exitcodes
from framework._cli.session import CommandSession
from framework.exceptions import FrameworkError, PluginInvalid
from framework.wire.safe_repr import printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: name: (module, object, one line of help), in the order in which a new user needs them.
COMMANDS: Final = {
    "init": ("framework._cli.init", "command", "Write a starter project: framework.toml and tasks.py."),
    "worker": ("framework._cli.worker", "command", "Start a worker."),
    "multi": ("framework._cli.multi.command", "command", "Start and stop many workers on this machine."),
    "call": ("framework._cli.call", "command", "Send a task by name and print its id."),
    "result": ("framework._cli.result", "command", "Wait for a task's result and print it."),
    "queues": ("framework._cli.queues", "command", "Show the queues and the number of messages in each."),
    "purge": ("framework._cli.purge", "command", "Drop all waiting messages."),
    "dlq": ("framework._cli.dlq", "command", "Show dead letters, replay them, or drop them."),
    "status": ("framework._cli.remote", "status", "Show which workers are online."),
    "health": ("framework._cli.health", "command", "Probe a worker on this machine: is it live, does it consume?"),
    "inspect": ("framework._cli.remote", "inspect", "Query the workers."),
    "control": ("framework._cli.remote", "control", "Send commands to the workers."),
    "config": ("framework._cli.config", "command", "Show, check and describe the configuration."),
    "plugins": ("framework._cli.plugins", "command", "List the installed plugins, or check them."),
    "report": ("framework._cli.report", "command", "Print information for a bug report."),
    "autoscale": ("framework._cli.autoscale", "command", "Simulate an autoscaler on a pattern of tasks."),
    "graph": ("framework._cli.graph", "command", "Draw the steps of the worker."),
}
GROUP: Final = "framework.commands"


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Store a global option in the session, whether it was given before or after the sub-command."""
    if value is not None and value is not False:
        setattr(ctx.ensure_object(CommandSession), str(param.name), value)
        if param.name == "no_color":
            ctx.color = False


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"framework {__version__}")
        ctx.exit()


def global_options() -> list[click.Option]:
    """Return the options that every command accepts."""

    def option(*spellings: str, **attributes: Any) -> click.Option:
        return click.Option(spellings, expose_value=False, callback=_store, **attributes)

    return [
        option("-A", "--app", "target", metavar="APP", help="The application: module or module:attribute."),
        option("-b", "--broker", metavar="URL", help="URL of the broker."),
        option("--result-backend", metavar="URL", help="URL of the result store."),
        option(
            "--config", metavar="FILE", help="The config file. Default: framework.toml here or beside the application."
        ),
        option("--workdir", metavar="DIR", help="Change to this directory first."),
        option("-C", "--no-color", is_flag=True, help="Print without colours."),
        option("-q", "--quiet", is_flag=True, help="Print only the requested output."),
        option("--traceback", "show_traceback", is_flag=True, help="Show tracebacks of errors."),
    ]


class Section(click.Group):
    """A command group: adds the global options to its sub-commands and suggests a name for a misspelt one."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the sub-command, with the global options added."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            add_global_options(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the sub-command that `args` name."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = get_close_matches(name, self.list_commands(ctx), 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else f" (there are {', '.join(self.list_commands(ctx))})"
            raise click.UsageError(f"there is no command {name}{hint}", ctx)
        return super().resolve_command(ctx, args)


def add_global_options(command: click.Command) -> None:
    """Add the global options to `command`, except those whose name or spelling it uses itself."""
    taken = {spelling for param in command.params for spelling in (*param.opts, *param.secondary_opts)}
    names = {param.name for param in command.params}
    for option in global_options():
        if option.name not in names and not taken.intersection(option.opts):
            command.params.append(option)


class Program(Section):
    """The top-level command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the built-in and of the installed sub-commands."""
        return [*COMMANDS, *(point.name for point in _installed() if point.name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one sub-command."""
        found: Any = None
        if cmd_name in COMMANDS:
            module, name, _ = COMMANDS[cmd_name]
            found = getattr(import_module(module), name)
        elif any(point.name == cmd_name for point in _installed()):
            # Start-up time: only a command from a plugin needs the loader.
            from framework._boot import loader

            found = loader.load("command", cmd_name)
            if not isinstance(found, click.Command):
                raise PluginInvalid(f"the command {cmd_name!r} of a plugin is {found!r}; wanted a click.Command")
        if found is not None:
            add_global_options(found)
        return found  # type: ignore[no-any-return]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of sub-commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(described())

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a sub-command without importing any, or an option."""
        from click.shell_completion import CompletionItem  # start-up time, as click does it

        names = [CompletionItem(name, help=text) for name, text in described() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


def described() -> list[tuple[str, str]]:
    """Return the name and the line of help of every sub-command."""
    rows = [(name, text) for name, (_, _, text) in COMMANDS.items()]
    for point in _installed():
        if point.name not in COMMANDS:
            rows.append((point.name, _help_of(point)))
    return rows


def _help_of(point: Any) -> str:
    """Return the first line of the docstring of the module that `point` names: it is read, not imported."""
    try:
        path, name, origin = None, "", ""
        for part in point.module.split("."):
            name = f"{name}.{part}" if name else part
            spec = PathFinder.find_spec(name, path)
            assert spec is not None
            path, origin = spec.submodule_search_locations, spec.origin or ""
        line = (ast.get_docstring(ast.parse(Path(origin).read_text())) or "").partition("\n")[0]
    except Exception:  # noqa: BLE001 - whatever is wrong with a plugin: the other commands are listed
        line = ""
    return line or (f"From {point.dist.name} {point.dist.version}." if point.dist else "")


def _installed() -> Iterable[Any]:
    # Start-up time: the catalog would read every family, and a built-in sub-command does not need the list at all.
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


program = Program(
    "framework",
    params=[
        *global_options(),
        click.Option(
            ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
        ),
    ],
    help="A task worker for Python. Start with `framework init`, then `framework worker`.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line `args`, default this process's, and return its exit code."""
    session = CommandSession(args)
    stdout, stderr = sys.stdout, sys.stderr
    try:
        # `main` returns the value of the command, or the code given to `ctx.exit`.
        color = False if os.environ.get("NO_COLOR") else None
        code = program.main(args, prog_name="framework", standalone_mode=False, obj=session, color=color)
        return code if isinstance(code, int) else exitcodes.OK
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return exitcodes.USAGE
    except click.ClickException as error:
        return _fail(session, _usage_text(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("", err=True)
        return exitcodes.INTERRUPTED
    except SystemExit:
        # When the reader of a pipe (head, less) has closed it, click wraps stdout and raises SystemExit(1).
        if sys.stdout is stdout:
            raise
        return exitcodes.OK
    except Exception as error:  # noqa: BLE001 - the outermost wall: an unexpected error is a defect, shown in full
        # A worker that failed late in its start has redirected both to its log.
        sys.stdout, sys.stderr = stdout, stderr
        if isinstance(error, FrameworkError):
            return _fail(session, str(error), error.exit_code)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return _fail(session, f"the output cannot be written: {error.strerror}", exitcodes.CANT_CREATE)
        session.show_traceback = True
        return _fail(session, f"a defect of framework or a plugin: {error!r}", exitcodes.SOFTWARE)


def _usage_text(error: click.ClickException) -> str:
    text = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    if isinstance(error, click.UsageError) and context is not None:
        text += f" (see {context.command_path} --help)"
    return text[:1].lower() + text[1:]


def _fail(session: CommandSession, text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody reads it
        if session.show_traceback:
            import traceback  # start-up time: only needed for `--traceback`

            traceback.print_exc()
        click.echo(printable(f"framework: error: {text}", "\n"), err=True)
    if session.background is not None:
        session.background.report_failed(text)
    return code
