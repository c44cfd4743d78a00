"""The steps of the worker's graph: each starts one part and says what it needs.

Order comes from `requires` alone; what a step leaves on the board is named after the step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework._boot.steps.health import HealthStep
from framework._boot.steps.parts import PoolStep, ResultsStep, TransportStep
from framework._boot.steps.reloading import AutoreloadStep, FsnotifyStep
from framework._boot.steps.remote import ControlStep, EventsStep, LineStep, LineUpStep, MingleStep, RosterStep
from framework._boot.steps.scaling import AutoscalerStep
from framework._boot.steps.surroundings import BannerStep, HooksStep, LoggingStep, LoopStep, NotifyStep, PidfileStep
from framework._boot.steps.work import (
    ConsumptionStep,
    IntakeStep,
    QueuesStep,
    RatesStep,
    RevokesStep,
    SettleStep,
    TurningStep,
)
from framework.api.step import Step

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
        TurningStep(),
        NotifyStep(),
        LineStep(),
        EventsStep(),
        RosterStep(),
        ControlStep(),
        MingleStep(),
        LineUpStep(),
        ConsumptionStep(),
    ]
