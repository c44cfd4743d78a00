"""The tables ``[control]`` and ``[event]``: remote control, and events for monitors."""

from typing import Annotated

import msgspec
from msgspec import Meta

from framework._config.tables.base import Seconds, Table, opt


class ControlSettings(Table):
    """``[control]``: remote control."""

    exchange: Annotated[str, opt("Name of the exchange, without .pidbox.", "CELERY_CONTROL_EXCHANGE")] = "celery"
    queue_ttl: Annotated[Seconds | None, opt("Seconds that a command or reply is kept.")] = 300.0
    queue_expires: Annotated[Seconds | None, opt("Seconds after which an unused queue is deleted.")] = 10.0
    queue_exclusive: Annotated[bool, opt("The queue belongs to one connection.")] = True
    queue_durable: Annotated[bool, opt("The queue survives a restart of the broker.")] = False
    allow: Annotated[
        list[Annotated[str, Meta(pattern=r"^((inspect|control):)?[\w*?\[\]!-]+$")]],
        opt(
            "Commands that the worker runs: NAME, inspect:NAME (those that report) or control:NAME (those that change "
            "something); * and ? in a name stand for others."
        ),
    ] = msgspec.field(default_factory=lambda: ["*"])
    secret: Annotated[
        Annotated[str, Meta(min_length=16)] | None,
        opt(
            "Commands that change something must be signed with this secret, of 16 characters or more, by clients that "
            "have it, too.",
            secret=True,
        ),
    ] = None
    time_limit: Annotated[
        Seconds, opt("Seconds after which a running command is ended and answered with an error; 0: no limit.")
    ] = 10.0


class EventSettings(Table):
    """``[event]``: events for monitors."""

    exchange: Annotated[str, opt("Name of the exchange.", "CELERY_EVENT_EXCHANGE")] = "celeryev"
    queue_prefix: Annotated[str, opt("Prefix of monitors' queues.", "CELERY_EVENT_QUEUE_PREFIX")] = "celeryev"
    queue_ttl: Annotated[Seconds | None, opt("Seconds that an event is kept.", "CELERY_EVENT_QUEUE_TTL")] = 5.0
    queue_expires: Annotated[
        Seconds | None, opt("Seconds after which an unused queue is deleted.", "CELERY_EVENT_QUEUE_EXPIRES")
    ] = 60.0
    queue_exclusive: Annotated[bool, opt("The queue belongs to one connection.")] = True
    queue_durable: Annotated[bool, opt("The queue survives a restart of the broker.")] = False
    serializer: Annotated[str, opt("Serializer of events.", "CELERY_EVENT_SERIALIZER")] = "json"
