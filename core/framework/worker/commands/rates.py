"""Commands that change rate limits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from framework.client.task_policy import parse_rate
from framework.exceptions import FrameworkError
from framework.worker.panel import control_command

if TYPE_CHECKING:
    from framework.worker.control import ControlState

logger = logging.getLogger(__name__)


@control_command(signature="TASK RATE")
def rate_limit(state: ControlState, task_name: str, rate_limit: str | int | float | None) -> dict[str, str]:
    """Limit how often tasks of this name start: 10/s, 200/m, 1000/h; 0: no limit. What waits already is limited too."""
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
