"""Task request: one task message, from its fetch until it is settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from framework.api.transport import Delivery
from framework.message import Head

if TYPE_CHECKING:
    from framework.client.task_policy import TaskPolicy


class TaskRequest:
    """A delivery with its head, its task's policy and its progress."""

    __slots__ = ("acknowledged", "delivery", "head", "name", "pid", "policy", "seq", "started", "task_id")

    def __init__(self, seq: int, delivery: Delivery, head: Head, name: str, task_id: str, policy: TaskPolicy) -> None:
        self.seq = seq
        self.delivery = delivery
        self.head = head
        self.name = name
        self.task_id = task_id
        self.policy = policy
        #: Wall-clock time at which the task began to run; 0.0: not started.
        self.started = 0.0
        #: Id of the process that runs the task; 0: not started.
        self.pid = 0
        self.acknowledged = False

    def acknowledge(self) -> None:
        """Acknowledge the delivery, once."""
        if not self.acknowledged:
            self.acknowledged = True
            self.delivery.ack()

    def __repr__(self) -> str:
        return f"{self.name}[{self.task_id}]"
