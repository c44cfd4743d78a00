"""The list of the built-in steps.

`requires` and `after` determine the order; a step puts its object on the board under its own name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework._boot.blueprint import GraphSource
from framework.api.step import Step
from framework.worker.steps.autoreload import AutoreloadStep, FsnotifyStep
from framework.worker.steps.autoscale import AutoscalerStep
from framework.worker.steps.consumer import consumer_steps
from framework.worker.steps.control.steps import (
    ControlConnectionStep,
    ControlConnectStep,
    ControlStep,
    GossipStep,
    MingleStep,
)
from framework.worker.steps.events.step import EventsStep
from framework.worker.steps.health.step import HealthStep
from framework.worker.steps.plugins import PoolStep, ResultsStep, TransportStep
from framework.worker.steps.process import BannerStep, HooksStep, LoggingStep, LoopStep, NotifyStep, PidfileStep
from framework.worker.steps.work import (
    ConsumptionStep,
    IntakeStep,
    LoopThreadStep,
    QueuesStep,
    RatesStep,
    RevokesStep,
    SettleStep,
)

if TYPE_CHECKING:
    from framework._config.settings import Settings


def worker_steps(settings: Settings) -> list[Step]:
    """Return the built-in steps of the worker's graph."""
    return [
        HooksStep(),
        LoggingStep(),
        PidfileStep(),
        LoopStep(),
        TransportStep(settings),
        ResultsStep(settings),
        QueuesStep(),
        BannerStep(),
        SettleStep(),
        PoolStep(settings),
        RevokesStep(),
        IntakeStep(),
        RatesStep(),
        AutoscalerStep(settings),
        FsnotifyStep(settings),
        AutoreloadStep(),
        HealthStep(),
        LoopThreadStep(),
        NotifyStep(),
        ControlConnectionStep(),
        EventsStep(),
        GossipStep(),
        ControlStep(),
        MingleStep(),
        ControlConnectStep(),
        ConsumptionStep(),
    ]


def graphs(settings: Settings) -> tuple[GraphSource, GraphSource]:
    """Return the sources of the worker's and of the consumer's graph."""
    given = ("loop", "transport", "intake", "redelivery", "queues", "revokes", "lost")
    return (GraphSource("worker", worker_steps(settings), ("run",)), GraphSource("consumer", consumer_steps(), given))
