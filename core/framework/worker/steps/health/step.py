"""The step that answers probes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from framework._boot.loop import EventLoop
from framework._config.health import health_address
from framework.api.step import Board, Step

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.worker.process.run import WorkerRun
    from framework.worker.settle.settle import Settle

logger = logging.getLogger(__name__)


class HealthStep(Step):
    """Answers /livez, /readyz and /metrics, in a thread of its own."""

    name = "health"
    requires = ("run", "loop", "pool", "intake", "settle", "prefetch", "dead_letters", "queues")
    #: The loop does not turn yet, so this is the one time at which another thread may look at its things.
    after = ("rates",)

    def __init__(self) -> None:
        self._closers: list[Any] = []

    def enabled(self, settings: Settings) -> str | None:
        if settings.worker.health is None:
            return "no --health"
        # A bad one is refused before anything has begun.
        health_address(settings.worker.health, settings.worker.hostname or "")
        return None

    def start(self, board: Board) -> None:
        # Start-up time and memory: a worker without an endpoint does not import them.
        from framework.worker.steps.health import answers, counters, endpoint, prometheus, sample

        run: WorkerRun = board.get("run")
        loop: EventLoop = board.get("loop")
        settle: Settle = board.get("settle")
        worker = run.settings.worker
        listener = answers.HealthSocket(health_address(worker.health or 0, run.hostname))
        self._closers.append(listener)
        settle.counters = counters.Counters()
        sampler = sample.HealthSampler(
            board.get("pool"),
            board.get("intake"),
            settle,
            board.get("prefetch"),
            board.get("dead_letters"),
            board.get("queues"),
            run.settings,
            settle.counters,
        )
        health = answers.HealthAnswers(
            prometheus.MetricsSource(
                run.hostname, worker.pool, run.began, sampler, settle.counters, lambda: run.graph.degraded
            )
        )

        def report(error: BaseException) -> None:
            # The log's locks are not for the endpoint's thread: under a green pool they are greenlets'.
            loop.call_soon_threadsafe(logger.error, "Defect in the health endpoint: %r", error)

        server = endpoint.Endpoint(listener.socket, health.answer, report)
        self._closers.append(server)
        loop.call_every(sample.INTERVAL, sampler.look)
        server.start()
        logger.info("Health endpoint on %s", listener.address)
        board.put("health", server)

    def close(self) -> None:
        for each in reversed(self._closers):
            each.close()
