"""Room: how many more messages fit into the worker, and which of those that are here leave room for others.

1. What waits for its eta takes no room, up to a limit.
2. What waits for its turn under a rate limit comes to take none, step by step: taken in at once, all there is would
   wait here, while another worker's turns pass unused.
3. Neither do the first thousand whose task is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Final

from framework.api.loop import Loop
from framework.worker.item import Item
from framework.worker.prefetch import Prefetch
from framework.worker.rates import HOLD_MAX, Rates
from framework.worker.schedule import Schedule
from framework.worker.settle import Settle
from framework.worker.unregistered import Unregistered

#: Seconds between two steps of making room for what may be behind tasks that are limited.
_PAUSE: Final = 0.02
#: Most messages of unknown tasks that make room for others while they wait here. With more, the others wait as well.
_STRANGE_MAX: Final = 1000


class Room:
    """Counts what is here."""

    def __init__(
        self,
        loop: Loop,
        prefetch: Prefetch,
        settle: Settle,
        backlog: Sized,
        rates: Rates,
        schedule: Schedule[Item],
        unregistered: Unregistered,
        on_more: Callable[[], object],
    ) -> None:
        """`backlog`, `rates`, `schedule`, `unregistered`: where messages wait. `on_more` is called when more fit."""
        self._loop = loop
        self._prefetch = prefetch
        self._settle = settle
        self._backlog = backlog
        self._rates = rates
        self._schedule = schedule
        #: What waits here for being handed back, as its task is not known, and what is being handed back.
        self._strange = unregistered.held
        self._handbacks = unregistered.handbacks
        self._on_more = on_more
        #: So many of those that wait for their turn take no room from others.
        self._spared = 0
        self._sparing = False

    def left(self) -> int:
        """Return how many messages fit; less than none when the limit has fallen."""
        if self._settle.overfull:
            return 0
        held = len(self._schedule) + (len(self._rates) if self._rates.buckets else 0)
        strange = len(self._strange) + len(self._handbacks)
        return self._prefetch.limit - len(self._settle.running) - len(self._backlog) - held - strange

    @property
    def changes(self) -> bool:
        """Whether tasks wait for their turn, or did: then `count` is to be called now and then."""
        return bool(self._rates.buckets or self._spared)

    def count(self) -> None:
        """Let what waits for its time leave room for others."""
        waiting = len(self._rates) if self._rates.buckets else 0
        self._spared = min(self._spared, waiting)
        self._prefetch.hold(len(self._schedule), self._spared + min(len(self._strange), _STRANGE_MAX))
        if self._spared < min(waiting, HOLD_MAX) and not self._sparing:
            self._sparing = True
            self._loop.call_later(_PAUSE, self._spare)

    def _spare(self) -> None:
        self._sparing = False
        waiting = len(self._rates)
        if waiting:
            self._spared = min(waiting, HOLD_MAX)
            self._on_more()

    def forget_held(self) -> list[Item]:
        """Forget what waits for its time or its turn, and return it."""
        held = [*self._rates.clear(), *self._schedule.clear()]
        self._prefetch.hold(0, 0)
        return held
