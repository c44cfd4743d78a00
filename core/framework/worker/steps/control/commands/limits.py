"""Commands that change time limits and rate limits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from framework.api.command import control_command
from framework.client.task_policy import parse_rate
from framework.exceptions import FrameworkError

if TYPE_CHECKING:
    from framework.worker.steps.control.state import ControlState


logger = logging.getLogger(__name__)

#: The longest time limit (s), as in messages.
_LIMIT_MAX: Final = 1e9


@control_command(signature="TASK [SOFT [HARD]]")
def time_limit(
    state: ControlState, task_name: str, soft: float | None = None, hard: float | None = None
) -> dict[str, str]:
    """Limit the seconds that tasks of this name may run, from their next start on; a limit left out is removed."""
    task = state.app.tasks.get(task_name)
    if task is None:
        logger.error("Change of time limits attempt for unknown task %s", task_name)
        raise FrameworkError("unknown task")
    traits = state.pool.traits
    for value, able, kind in ((soft, traits.soft_limit, "soft"), (hard, traits.hard_limit, "hard")):
        # Written so that nan is refused, too.
        if value is not None and not 0 < value <= _LIMIT_MAX:
            raise FrameworkError(
                f"the {kind} time limit is {value:g}; wanted seconds above 0, at most {_LIMIT_MAX:g}, "
                "or nothing for no limit"
            )
        if value is not None and not able:
            raise FrameworkError(f"the pool {state.settings.worker.pool!r} cannot enforce a {kind} time limit")
    task.policy = msgspec.structs.replace(task.policy, soft_time_limit=soft, time_limit=hard)
    state.intake.update_policies({task_name: task.policy})
    logger.info("New time limits for tasks of type %s: soft=%s hard=%s", task_name, soft, hard)
    return {"ok": "time limits set successfully"}


@control_command(signature="TASK RATE")
def rate_limit(state: ControlState, task_name: str, rate_limit: str | int | float | None) -> dict[str, str]:
    """Limit how often tasks of this name start: 10/s, 200/m, 1000/h; 0: no limit. Applies to waiting tasks, too."""
    task = state.app.tasks.get(task_name)
    if task is None:
        logger.error("Rate limit attempt for unknown task %s", task_name)
        raise FrameworkError("unknown task")
    rate = parse_rate(rate_limit)
    rates = state.intake.rates
    rates.set(task_name, rate, shared=task.policy.rate_limit_scope == "cluster")
    task.rate_limit = rate_limit
    without = ", without effect: disable_rate_limits is set under [worker]" if rates.disabled else ""
    if not rate_limit:
        logger.info("Rate limits disabled for tasks of type %s%s", task_name, without)
        return {"ok": f"rate limit disabled successfully{without}"}
    logger.info("New rate limit for tasks of type %s: %s.%s", task_name, rate_limit, without)
    return {"ok": f"new rate limit set successfully{without}"}
