"""Termination: ends tasks from outside.

1. `signal_named` returns the signal of a name or number.
2. `end_tasks` ends the tasks with given ids: waiting tasks are discarded as revoked, the pool terminates running ones.
3. `terminate_for_reconnect` terminates running late-ack tasks when the connection is lost; they run again.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from framework.exceptions import FrameworkError
from framework.worker.task_request import TaskRequest

if TYPE_CHECKING:
    from framework.api.pool import Pool
    from framework.worker.settle.settle import Settle
    from framework.worker.steps.control.state import ControlState

logger = logging.getLogger(__name__)

#: Seconds before another attempt to terminate a task that is just entering or leaving its slot.
_RETRY: Final = 0.01


def signal_named(name: str | int | None) -> signal.Signals:
    """Return the signal with this name (with or without SIG) or number; None: the default, TERM.

    With REMAP_SIGTERM=SIGQUIT in the environment the default is QUIT. Raises `FrameworkError`.
    """
    if name is None:
        return signal.SIGQUIT if os.environ.get("REMAP_SIGTERM") == "SIGQUIT" else signal.SIGTERM
    if isinstance(name, str):
        if name != name.upper():
            raise FrameworkError(f"signal name must be uppercase string: {name.upper()}, not {name}")
        found = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
        if isinstance(found, signal.Signals):
            return found
    else:
        try:
            return signal.Signals(name)
        except ValueError:
            pass
    raise FrameworkError(f"unknown signal {name!r:.80}: wanted a signal such as TERM, SIGKILL or SIGUSR2")


def end_tasks(state: ControlState, ids: Collection[str], signum: signal.Signals) -> list[str]:
    """End the tasks with these revoked ids; return the ids that this worker has.

    Raises `FrameworkError` if the pool cannot end a task.
    """
    if not state.pool.traits.terminate:
        raise FrameworkError(f"the pool {state.settings.worker.pool!r} cannot end a running task")
    wanted = set(ids)
    running = [request for request in state.settle.running.values() if request.task_id in wanted]
    waiting = [request for request in state.intake.waiting() if request.task_id in wanted]
    state.intake.recheck()
    for request in running:
        if request.seq in state.settle.running:
            logger.info("Terminating %s (%d)", request.task_id, signum)
            _terminate(state.settle, state.pool, request, signum)
    here = {request.task_id for request in (*running, *waiting)}
    return [task_id for task_id in dict.fromkeys(ids) if task_id in here]


def terminate_for_reconnect(settle: Settle, pool: Pool) -> None:
    """Terminate the running late-ack tasks whose message is unacknowledged; they are requeued.

    A task that ends before the pool terminates it is settled as usual.
    """
    requests = [request for request in settle.running.values() if request.policy.acks_late and not request.acknowledged]
    settle.terminated = {request.seq for request in requests}
    if not requests:
        return
    logger.warning(
        "consumer: Terminating %d running tasks with late ack, which run again when the broker is back "
        "(worker_cancel_long_running_tasks_on_connection_loss)",
        len(requests),
    )
    signum = signal_named(None)
    for request in requests:
        _terminate(settle, pool, request, signum)


def _terminate(settle: Settle, pool: Pool, request: TaskRequest, signum: signal.Signals) -> None:
    if request.seq in settle.running and not pool.terminate(request.seq, signum):
        pool.context.loop.call_later(_RETRY, _terminate, settle, pool, request, signum)
