"""``framework worker``: parses the options of the worker; `framework._cli.start` starts it.

1. Makes an option of every setting that has a flag.
2. Stores options and ``worker.key=value`` arguments as the topmost layer of the configuration.
3. Refuses options that are not available in this release with a `ConfigError`.
"""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from framework._cli.output import pass_session
from framework._cli.session import CommandSession
from framework._config.options import Option, choices, did_you_mean, options
from framework.exceptions import ConfigError


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
        click.Option(
            ("-D", "--detach"), is_flag=True, help="Run in the background; return once the worker has started."
        )
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
    # Accepted without effect, for old scripts: prefork children always run the program that forked them.
    found.append(click.Option(("--no-execv",), is_flag=True, expose_value=False, hidden=True))
    found.append(click.Argument(("assignments",), nargs=-1, metavar="[TABLE.KEY=VALUE]..."))
    return found


def _assign(session: CommandSession, text: str) -> None:
    """Store an argument like ``worker.prefetch_multiplier=2``."""
    name, equals, value = text.partition("=")
    flat = name.replace(".", "_", 1)
    if not equals:
        raise click.UsageError(f"unexpected argument {text}; settings are given as worker.key=value")
    if flat not in options():
        raise ConfigError(f"argument {text}: unknown setting {name}{did_you_mean(flat, options())}")
    session.flags[flat] = (text, value)


@pass_session
def _run(session: CommandSession, assignments: tuple[str, ...], detach: bool) -> int:
    for text in assignments:
        _assign(session, text)
    # Start-up time: `--help` and completion do not start a worker.
    from framework._cli.start import start

    return start(session, detach)


command = click.Command(
    "worker",
    params=_worker_options(),
    callback=_run,
    help="Start a worker. Any setting may be given as an argument: worker.stop_timeout=30 task.acks_late=true",
)
