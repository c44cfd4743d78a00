"""The broker's consumers, one for each queue, and their kind of prefetch limit."""

from __future__ import annotations

from framework.api.transport import Queue


class QosMode:
    """The kind of prefetch limit; all consumers of a transport share it, so that a refusal occurs only once."""

    def __init__(self) -> None:
        #: The broker refused a limit for a whole channel.
        self.per_consumer = False


class BrokerConsumer:
    """One consumer at the broker."""

    __slots__ = ("cancelled", "name", "predecessor", "queue", "tag")

    def __init__(self, queue: Queue, tag: bytes, predecessor: BrokerConsumer | None = None) -> None:
        """`predecessor`: the paused consumer that this one replaces."""
        self.queue = queue
        self.name = queue.name
        self.tag = tag
        #: Cancelled for good, or, if it is the queue's current consumer, while core is at capacity.
        self.cancelled = False
        self.predecessor = predecessor

    @property
    def can_pause(self) -> bool:
        """Whether the queue survives without a consumer; auto-delete and expiring queues do not."""
        queue = self.queue
        return not (queue.no_ack or queue.auto_delete or queue.expires or "x-expires" in (queue.queue_arguments or ()))
