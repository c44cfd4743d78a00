"""``framework worker``: starts a worker. Its options are those of the settings that have a flag.

1. Options and ``worker.key=value`` arguments become the topmost layer of the configuration.
2. A green pool patches the interpreter before the application is imported.
3. With ``--detach`` another process runs the worker; this one waits until that has begun.
4. What this release cannot do yet is refused in words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from framework import exitcodes
from framework._cli.output import pass_session
from framework._cli.session import CommandSession
from framework._config.options import Option, choices, did_you_mean, options
from framework._config.sources import Config
from framework.exceptions import ConfigError

if TYPE_CHECKING:
    from framework.client.locate import LocatedApp


def _store(option: Option, spelling: str) -> Any:
    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if ctx.get_parameter_source(str(param.name)) is not ParameterSource.COMMANDLINE:
            return
        if option.since is not None:
            raise ConfigError(_unavailable(spelling, option.since))
        given = option.value if param.is_flag else value  # type: ignore[attr-defined]
        ctx.ensure_object(CommandSession).flags[option.name] = (spelling, given)

    return callback


def _help(option: Option) -> str:
    text = option.help
    if option.value is False:
        text = f"Do not {text[:1].lower()}{text[1:]}"
    return f"(Not available yet.) {text}" if option.since else text


def _refuse(spelling: str, feature: str) -> Any:
    def callback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            raise ConfigError(_unavailable(spelling, feature))

    return callback


def _unavailable(spelling: str, feature: str) -> str:
    return f"option {spelling}: {feature} is not available in this release"


def _worker_options() -> list[click.Parameter]:
    found: list[click.Parameter] = []
    for option in options().values():
        if not option.flag:
            continue
        for spellings, hidden in ((option.flag, False), *(((old,), True) for old in option.hidden)):
            name = f"setting_{spellings[-1].strip('-').replace('-', '_')}"
            is_flag = option.value is not None
            found.append(
                click.Option(
                    (*spellings, name),
                    expose_value=False,
                    is_flag=is_flag or None,
                    type=None if is_flag else str,
                    metavar=None
                    if is_flag
                    else option.metavar or choices(option) or option.key.rpartition("_")[2].upper(),
                    hidden=hidden,
                    help=_help(option),
                    callback=_store(option, spellings[-1]),
                )
            )
    found.append(
        click.Option(("-D", "--detach"), is_flag=True, help="Run in the background; return once the worker has begun.")
    )
    found.append(
        click.Option(
            ("-B", "--beat"),
            is_flag=True,
            expose_value=False,
            help="(Not available yet.) Run the scheduler too.",
            callback=_refuse("--beat", "the scheduler"),
        )
    )
    # Meant something once: prefork children always run the program that forked them.
    found.append(click.Option(("--no-execv",), is_flag=True, expose_value=False, hidden=True))
    found.append(click.Argument(("assignments",), nargs=-1, metavar="[TABLE.KEY=VALUE]..."))
    return found


def _assign(session: CommandSession, text: str) -> None:
    """Take an argument like ``worker.prefetch_multiplier=2``."""
    name, equals, value = text.partition("=")
    flat = name.replace(".", "_", 1)
    if not equals:
        raise click.UsageError(f"unexpected argument {text}; settings are given as worker.key=value")
    if flat not in options():
        raise ConfigError(f"argument {text}: there is no setting {name}{did_you_mean(flat, options())}")
    session.flags[flat] = (text, value)


@pass_session
def _run(session: CommandSession, assignments: tuple[str, ...], detach: bool) -> int:
    for text in assignments:
        _assign(session, text)
    from framework._boot.preload import preload
    from framework._config.sources import resolve
    from framework.worker.process import background, privileges

    session.background = background.join()
    settings = resolve(session.sources()).settings.worker
    if detach and session.background is None:
        return background.start(session.again(settings.executable), session.origin, session.quiet)
    privileges.mask(settings.umask)
    privileges.become(settings.uid, settings.gid)
    from framework.worker.process.signals import Signals

    signals = Signals()
    signals.hold()
    try:
        preload(settings.pool, settings.pool_start_method)
        located, config = _get_ready(session)
    except Exception:  # whatever it is, it is told where it arrives
        signals.restore()
        raise
    except BaseException:  # it is on its way out, which no signal is to change
        signals.fix_exit_code(exitcodes.INTERRUPTED)
        raise
    from framework.worker.process.run import run_worker
    from framework.worker.steps.builtin import worker_steps

    steps = worker_steps(config.settings)
    return run_worker(located, config, steps, signals, session.quiet, session.background, session.origin)


def _get_ready(session: CommandSession) -> tuple[LocatedApp, Config]:
    """Import the application, and do what was asked for before the worker begins."""
    from framework.client.locate import import_modules

    located = session.locate()
    config: Config = located.app.conf.config
    _note_unavailable(config)
    import_modules(located.app)
    if config.settings.worker.purge:
        _purge(session, config)
    return located, config


def _note_unavailable(config: Config) -> None:
    """Say which settings of the file, the environment or the code do nothing yet."""
    for name, origin in config.origins.items():
        option = options()[name]
        if option.since is not None:
            click.echo(f"note: {option.label} ({origin}) has no effect: {option.since} is not available yet", err=True)


def _purge(session: CommandSession, config: Config) -> None:
    """Drop what waits in the queues that the worker is going to consume from."""
    from framework._cli.purge import purge
    from framework.client.routing import select_queues

    worker = config.settings.worker
    dropped = purge(config.settings, select_queues(config.settings, worker.queues, worker.exclude_queues))
    if not session.quiet:
        click.echo(f"purge: Erased {sum(dropped.values())} messages from the queues.")


command = click.Command(
    "worker",
    params=_worker_options(),
    callback=_run,
    help="Start a worker. Any setting may be given as an argument: worker.stop_timeout=30 task.acks_late=true",
)
