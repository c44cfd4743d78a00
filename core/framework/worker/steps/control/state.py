"""`ControlState`: the parts of the worker that a remote-control command can read and change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from framework._config.settings import Settings
    from framework.api.pool import Pool
    from framework.api.transport import Transport
    from framework.client.app import App
    from framework.wire.clock import Clock
    from framework.worker.autoreload.driver import Autoreloader
    from framework.worker.autoscaler.driver import AutoscalerDriver
    from framework.worker.dispatch.revoked import Revokes
    from framework.worker.intake.capacity import Prefetch
    from framework.worker.intake.intake import Intake
    from framework.worker.intake.subscriptions import Subscriptions
    from framework.worker.settle.settle import Settle
    from framework.worker.steps.control.access import Access
    from framework.worker.steps.control.mingle import Mingle
    from framework.worker.steps.events.dispatcher import EventDispatcher


class Qos:
    """The prefetch limit, with the methods that commands use."""

    def __init__(self, prefetch: Prefetch, intake: Intake) -> None:
        self._prefetch = prefetch
        self._intake = intake

    @property
    def value(self) -> int:
        """The current limit."""
        return self._prefetch.limit

    def increment_eventually(self, n: int = 1) -> None:
        """Raise the limit by `n`, from the next fetch on."""
        self._prefetch.extra += n
        self._intake.ask()

    def decrement_eventually(self, n: int = 1) -> None:
        """Lower the limit by `n`; messages that are already held stay."""
        self._prefetch.extra -= n
        self._intake.ask()


class ConsumerView(msgspec.Struct, kw_only=True):
    """`state.consumer`: the consumer, with the attributes that commands use."""

    qos: Qos
    pool: Pool
    hostname: str
    #: Sends events: ``state.consumer.event_dispatcher.send("my-event", key=value)``. None: no events.
    event_dispatcher: EventDispatcher | None = None


class ControlState(msgspec.Struct, kw_only=True):
    """The argument `state` of a command."""

    app: App
    hostname: str
    settings: Settings
    consumer: ConsumerView
    pool: Pool
    transport: Transport
    intake: Intake
    settle: Settle
    prefetch: Prefetch
    revokes: Revokes
    clock: Clock
    access: Access
    queues: Subscriptions
    #: Starts a warm stop of the worker.
    stop: Callable[[], object]
    started: float
    #: None if it could not be started.
    mingle: Mingle | None = None
    #: None without --autoscale.
    autoscaler: AutoscalerDriver | None = None
    #: None without --autoreload.
    autoreloader: Autoreloader | None = None
