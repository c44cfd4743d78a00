"""Starts the worker that ``framework worker`` asks for.

1. With ``--detach`` another process runs the worker; this one waits until that has begun.
2. A green pool patches the interpreter before the application is imported. Until then no more is imported than what
   reads the configuration, loads the pool and holds the signals.
"""

from __future__ import annotations

import click

from framework import exitcodes
from framework._boot import preload
from framework._cli.purge import purge
from framework._cli.session import CommandSession
from framework._config.options import options
from framework._config.sources import Config, resolve
from framework.client.locate import LocatedApp, import_modules
from framework.client.routing import select_queues
from framework.worker.process import background, privileges
from framework.worker.process.signals import Signals


def start(session: CommandSession, detach: bool) -> int:
    """Start a worker and run it to its end; `detach`: in another process. Returns the exit code."""
    session.background = background.join()
    settings = resolve(session.sources()).settings.worker
    if detach and session.background is None:
        return background.start(session.again(settings.executable), session.origin, session.quiet)
    privileges.mask(settings.umask)
    privileges.become(settings.uid, settings.gid)
    signals = Signals()
    signals.hold()
    try:
        preload.preload(settings.pool, settings.pool_start_method)
        located, config = _get_ready(session)
    except Exception:  # whatever it is, it is told where it arrives
        signals.restore()
        raise
    except BaseException:  # it is on its way out, which no signal is to change
        signals.fix_exit_code(exitcodes.INTERRUPTED)
        raise
    # After the patching: nothing that uses threads or sockets may be imported in an interpreter still to be patched.
    from framework.worker.process.run import run_worker
    from framework.worker.steps.builtin import worker_steps

    steps = worker_steps(config.settings)
    return run_worker(located, config, steps, signals, session.quiet, session.background, session.origin)


def _get_ready(session: CommandSession) -> tuple[LocatedApp, Config]:
    """Import the application, and do what was asked for before the worker begins."""
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
    worker = config.settings.worker
    dropped = purge(config.settings, select_queues(config.settings, worker.queues, worker.exclude_queues))
    if not session.quiet:
        click.echo(f"purge: Erased {sum(dropped.values())} messages from the queues.")
