"""The step of the health endpoint."""

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
    """Answers /livez, /readyz and /metrics, in its own thread."""

    name = "health"
    requires = ("run", "loop", "pool", "intake", "settle", "prefetch", "dead_letters", "queues")
    #: Starts before `loop-thread`: the first sample is taken in the main thread, which must not run beside the loop.
    after = ("rates",)

    def __init__(self) -> None:
        self._closers: list[Any] = []

    def enabled(self, settings: Settings) -> str | None:
        if settings.worker.health is None:
            return "no --health"
        # Checked here, so that a bad address is refused before any step starts.
        health_address(settings.worker.health, settings.worker.hostname or "")
        return None

    def start(self, board: Board) -> None:
        # Imported here: a worker without a health endpoint does not need them.
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
            # Logged in the loop: under a green pool the log's locks must not be used in the endpoint's real thread.
            loop.call_soon_threadsafe(logger.error, "Defect in the health endpoint: %r", error)

        server = endpoint.Endpoint(listener.socket, health.answer, report)
        self._closers.append(server)
        loop.call_every(sample.INTERVAL, sampler.update)
        server.start()
        logger.info("Health endpoint on %s", listener.address)
        board.put("health", server)

    def close(self) -> None:
        for each in reversed(self._closers):
            each.close()
