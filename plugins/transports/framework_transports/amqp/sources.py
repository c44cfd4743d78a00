"""What a consumer of ours has at the broker: one consumer for each queue, and how they are limited."""

from __future__ import annotations

from framework.api.transport import Queue


class QosMode:
    """How consumers are limited; shared by all of a transport, so that the next one knows what one has learnt."""

    def __init__(self) -> None:
        #: The broker refused a limit for a whole channel.
        self.per_consumer = False


class Source:
    """One consumer of the broker's."""

    __slots__ = ("cancelled", "name", "queue", "tag")

    def __init__(self, queue: Queue, tag: bytes) -> None:
        self.queue = queue
        self.name = queue.name
        self.tag = tag
        self.cancelled = False
