"""What a consumer of ours has at the broker: one consumer for each queue, and how they are limited."""

from __future__ import annotations

from framework.api.transport import Queue


class QosMode:
    """How consumers are limited; shared by all of a transport, so that the next one knows what one has learnt."""

    def __init__(self) -> None:
        #: The broker refused a limit for a whole channel.
        self.per_consumer = False


class BrokerConsumer:
    """One consumer of the broker's."""

    __slots__ = ("before", "cancelled", "name", "queue", "tag")

    def __init__(self, queue: Queue, tag: bytes, before: BrokerConsumer | None = None) -> None:
        """`before`: the one that this one takes the place of, after a rest."""
        self.queue = queue
        self.name = queue.name
        self.tag = tag
        #: For good; or, while it is the queue's current one, for as long as core has no room.
        self.cancelled = False
        self.before = before

    @property
    def may_rest(self) -> bool:
        """Whether the queue bears being without a consumer; one that goes away then does not."""
        queue = self.queue
        return not (queue.no_ack or queue.auto_delete or queue.expires or "x-expires" in (queue.queue_arguments or ()))
