"""Starts the worker of ``framework worker``.

1. With ``--detach``, starts another process that runs the worker, and waits until the worker has started.
2. Lets a green pool patch the interpreter before the application is imported; until then it imports only the modules
   that read the configuration, load the pool and hold back signals.
"""

from __future__ import annotations

from framework import exitcodes
from framework._boot import preload
from framework._cli.output import note
from framework._cli.purge import purge
from framework._cli.session import CommandSession
from framework._config.nodename import node_name
from framework._config.options import options
from framework._config.sources import Config, resolve
from framework.client.locate import LocatedApp, import_modules
from framework.client.routing import select_queues
from framework.worker.process import background, privileges
from framework.worker.process.init import become_init
from framework.worker.process.signals import Signals


def start(session: CommandSession, detach: bool) -> int:
    """Run a worker until it ends, or with `detach` start it in another process; return the exit code."""
    session.background = background.join()
    settings = resolve(session.sources()).settings.worker
    if detach and session.background is None:
        return background.start(session.repeat_command(settings.executable), session.origin, session.quiet)
    privileges.mask(settings.umask)
    privileges.become(settings.uid, settings.gid)
    # Early: the process that stays behind has neither threads nor the application.
    if (code := become_init()) is not None:
        return code
    session.name_process(f"framework worker: {node_name(settings.hostname)} [main]")
    signals = Signals()
    signals.hold()
    try:
        preload.preload(settings.pool, settings.pool_start_method)
        located, config = _prepare(session)
    except Exception:  # the caller reports the error
        signals.restore()
        raise
    except BaseException:  # the process is exiting: a held signal must not change its exit code
        signals.fix_exit_code(exitcodes.INTERRUPTED)
        raise
    # After the patching: modules that use threads or sockets must not be imported before it.
    from framework.worker.process.run import run_worker
    from framework.worker.steps.builtin import worker_steps

    steps = worker_steps(config.settings)
    return run_worker(located, config, steps, signals, session.quiet, session.background, session.origin)


def _prepare(session: CommandSession) -> tuple[LocatedApp, Config]:
    """Import the application, check and note settings, and purge the queues if `worker.purge` is set."""
    located = session.locate()
    config: Config = located.app.conf.config
    _note_unavailable(config)
    privileges.refuse_pickle_as_root(config.settings)
    import_modules(located.app)
    if config.settings.worker.purge:
        _purge(session, config)
    return located, config


def _note_unavailable(config: Config) -> None:
    """Print the configured settings that have no effect yet."""
    for name, origin in config.origins.items():
        option = options()[name]
        if option.since is not None:
            note(f"note: {option.label} ({origin}) has no effect: {option.since} is not available yet")


def _purge(session: CommandSession, config: Config) -> None:
    """Drop all messages in the queues that the worker will consume."""
    worker = config.settings.worker
    dropped = purge(config.settings, select_queues(config.settings, worker.queues, worker.exclude_queues))
    if not session.quiet:
        note(f"purge: Erased {sum(dropped.values())} messages from the queues.", err=False)
