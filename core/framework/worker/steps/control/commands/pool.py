"""Commands that change the pool (size, code) and its autoscaler, or stop the worker."""

from __future__ import annotations

import builtins
import logging
from typing import TYPE_CHECKING, Final

from framework.api.command import control_command
from framework.exceptions import FrameworkError
from framework.worker.autoreload.reloading import Reloading, apply_policies, policies_of

if TYPE_CHECKING:
    from framework.worker.steps.control.state import ControlState


logger = logging.getLogger(__name__)

#: Seconds for the imports of a restart: a large application takes long.
_IMPORT_LIMIT: Final = 300.0


@control_command(signature="[N]")
def pool_grow(state: ControlState, n: int = 1) -> dict[str, str]:
    """Add N slots to the pool."""
    _check_size(state, "pool_grow", n)
    slots, most = state.prefetch.slots, state.settings.worker.pool_max
    if slots + n > most:
        raise FrameworkError(f"the pool has {slots} slots and may have at most {most} (pool_max), not {slots + n}")
    state.pool.grow(n)
    _resized(state, n)
    return {"ok": "pool will grow"}


@control_command(signature="[N]")
def pool_shrink(state: ControlState, n: int = 1) -> dict[str, str]:
    """Remove N slots from the pool; running tasks finish."""
    _check_size(state, "pool_shrink", n)
    if n >= state.prefetch.slots:
        raise FrameworkError(f"cannot remove {n} of {state.prefetch.slots} slots: the pool needs at least one")
    state.pool.shrink(n)
    _resized(state, -n)
    return {"ok": "pool will shrink"}


def _check_size(state: ControlState, command: str, n: int) -> None:
    if state.autoscaler is not None:
        raise FrameworkError(f"{command} is not supported with autoscale. Adjust autoscale range instead.")
    if not state.pool.traits.resize:
        raise FrameworkError(f"the pool {state.settings.worker.pool!r} has a fixed size")
    if n < 1:
        raise FrameworkError(f"the number of slots is {n}; wanted 1 or more")


def _resized(state: ControlState, n: int) -> None:
    state.prefetch.slots += n
    state.intake.ask()
    logger.info("The pool now has %d slots", state.prefetch.slots)


@control_command(signature="[MODULE ...] [reload=true] [reloader=PATH]", variadic="modules", time_limit=_IMPORT_LIMIT)
def pool_restart(
    state: ControlState, modules: list[str] | None = None, reload: bool = False, reloader: str | None = None
) -> dict[str, str]:
    """Import modules, reload them with reload=true, and replace every slot of the pool after its task."""
    worker = state.settings.worker
    if not (worker.pool_restarts or worker.autoreload):
        raise FrameworkError("Pool restarts not enabled")
    if not state.pool.traits.restart:
        raise FrameworkError(f"the pool {worker.pool!r} cannot be restarted")
    reloading = Reloading(state.app, state.pool.context.recipe["app"], worker.pool_restart_modules)
    before = policies_of(state.app)
    reloading.load(reloading.task_modules() if modules is None else modules, reload, reloader)
    apply_policies(state.app, state.intake, before)
    if state.autoreloader is not None:
        state.autoreloader.watch_modules()
    state.pool.restart(modules or (), fresh=reload)
    logger.info("The pool is restarted by remote%s", f"; modules: {', '.join(modules)}" if modules else "")
    return {"ok": "reload started"}


@control_command(signature="[MAX [MIN]]")
def autoscale(
    state: ControlState,
    max: int | None = None,  # noqa: A002 - the names of the request
    min: int | None = None,  # noqa: A002
) -> dict[str, str]:
    """Change the bounds of the pool's size; an omitted bound stays."""
    if state.autoscaler is None:
        raise FrameworkError("Autoscale not enabled: start the worker with --autoscale MAX,MIN")
    most = state.settings.worker.pool_max
    if (bound := builtins.max(max or 0, min or 0)) > most:
        raise FrameworkError(f"the pool may have at most {most} slots (pool_max), not {bound}")
    largest, smallest = state.autoscaler.update(max, min)
    return {"ok": f"autoscale now max={largest} min={smallest}"}


@control_command()
def shutdown(state: ControlState, msg: str = "Got shutdown from remote") -> dict[str, str]:
    """Stop the worker warmly."""
    logger.warning("%s", msg)
    state.stop()
    return {"ok": "shutting down"}
