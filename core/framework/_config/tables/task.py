"""The table ``[task]``, with the retry policy of publishing."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from framework._config.tables.base import Count, Natural, Seconds, Table, opt


class RetryPolicy(Table):
    """``[task.publish_retry_policy]``: how publishing is retried."""

    max_retries: Annotated[Natural | None, opt("Most retries; None: no limit.")] = 3
    interval_start: Annotated[Seconds, opt("Seconds before the first retry.")] = 0.0
    interval_step: Annotated[Seconds, opt("Seconds added before each further retry.")] = 0.2
    interval_max: Annotated[Seconds, opt("Most seconds between two attempts.")] = 1.0
    retry_errors: Annotated[Any, opt("Kept for old configurations; temporary errors alone are retried.")] = None


class TaskSettings(Table):
    """``[task]``: defaults of tasks, and the routing of messages."""

    # ------------------------------------------------ queues, routes
    queues: Annotated[
        Any,
        opt(
            "Queues by name, [task.queues.<name>] with exchange, routing_key …, or broadcast = true for a copy to "
            "every worker; in code a list of Queue.",
            "CELERY_QUEUES",
        ),
    ] = None
    default_queue: Annotated[str, opt("The queue of tasks without a route.", "CELERY_DEFAULT_QUEUE")] = "celery"
    default_exchange: Annotated[
        str | None, opt("Exchange of the default queue. None: named as the queue.", "CELERY_DEFAULT_EXCHANGE")
    ] = None
    default_exchange_type: Annotated[str, opt("Type of that exchange.", "CELERY_DEFAULT_EXCHANGE_TYPE")] = "direct"
    default_routing_key: Annotated[
        str | None, opt("Routing key of the default queue. None: the name of the queue.", "CELERY_DEFAULT_ROUTING_KEY")
    ] = None
    default_queue_type: Annotated[Literal["classic", "quorum"], opt("Type of the default queue (AMQP).")] = "classic"
    default_delivery_mode: Annotated[
        Literal[1, 2],
        opt("1: the broker may keep messages in memory only. 2: on disk.", "CELERY_DEFAULT_DELIVERY_MODE"),
    ] = 2
    create_missing_queues: Annotated[
        bool, opt("Create queues that are used but not defined.", "CELERY_CREATE_MISSING_QUEUES")
    ] = True
    create_missing_queue_type: Annotated[Literal["classic", "quorum"], opt("Type of those queues (AMQP).")] = "classic"
    create_missing_queue_exchange_type: Annotated[str | None, opt("Type of their exchange. None: direct.")] = None
    queue_max_priority: Annotated[
        Count | None, opt("x-max-priority of all queues (AMQP).", "CELERY_QUEUE_MAX_PRIORITY")
    ] = None
    default_priority: Annotated[Natural | None, opt("Priority of messages.", "CELERY_DEFAULT_PRIORITY")] = None
    inherit_parent_priority: Annotated[
        bool, opt("Child tasks inherit the priority of their parent.", "CELERY_INHERIT_PARENT_PRIORITY")
    ] = False
    routes: Annotated[
        Any, opt("Routing rules: {pattern: {queue, …}}, a function, or a list of them.", "CELERY_ROUTES")
    ] = None

    # ------------------------------------------------ delivery
    acks_late: Annotated[
        bool,
        opt(
            "Acknowledge a message when its task has ended, so that a task is not lost in a crash but run again.",
            "CELERY_ACKS_LATE",
        ),
    ] = False
    acks_on_failure_or_timeout: Annotated[
        bool, opt("With acks_late: acknowledge failed and timed out tasks too.", "CELERY_ACKS_ON_FAILURE_OR_TIMEOUT")
    ] = True
    acks_on_failure: Annotated[bool | None, opt("The same for failures only. None: acks_on_failure_or_timeout.")] = None
    acks_on_timeout: Annotated[bool | None, opt("The same for time limits only. None: acks_on_failure_or_timeout.")] = (
        None
    )
    reject_on_worker_lost: Annotated[
        bool | None,
        opt("With acks_late: requeue the message of a task whose process died.", "CELERY_REJECT_ON_WORKER_LOST"),
    ] = None
    retry_on_worker_lost: Annotated[bool, opt("Retry a task whose process died.", "CELERY_RETRY_ON_WORKER_LOST")] = (
        False
    )
    ends: Annotated[
        dict[str, str] | None,
        opt(
            "What happens to the message after each end of a task: {failure, soft_timeout, hard_timeout, worker_lost, "
            "shutdown} to ack, requeue, retry or dead-letter. Wins over the settings above."
        ),
    ] = None
    max_deliveries: Annotated[
        Count | None, opt("Deliveries of a message before it is a dead letter. None: 3 with acks_late, else no limit.")
    ] = None
    unknown_retries: Annotated[
        Natural,
        opt(
            "How often workers without the task of a message requeue it, for a worker with the task, before it is a "
            "dead letter. 0: never."
        ),
    ] = 20
    unknown_delay: Annotated[Seconds, opt("Seconds between two of these requeues, at random 50 % more or less.")] = 3.0
    dead_letter_queue: Annotated[
        str | None, opt("Queue of dead letters; {queue}: the queue of the message. None: they are dropped.")
    ] = "{queue}.dlq"
    max_message_size: Annotated[Count | None, opt("Bytes; larger bodies are dead letters. None: no limit.")] = (
        64 * 1024 * 1024
    )
    max_nesting: Annotated[Count, opt("Levels of nesting; deeper bodies are dead letters.")] = 1000

    # ------------------------------------------------ limits
    time_limit: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        opt(
            "Seconds after which a running task is stopped.",
            "CELERYD_TASK_TIME_LIMIT",
            flag=("--time-limit",),
            metavar="S",
        ),
    ] = None
    soft_time_limit: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        opt(
            "Seconds after which SoftTimeLimitExceeded is raised in a running task.",
            "CELERYD_TASK_SOFT_TIME_LIMIT",
            flag=("--soft-time-limit",),
            metavar="S",
        ),
    ] = None
    default_rate_limit: Annotated[
        str | int | float | None, opt("Rate limit of tasks: 10/s, 100/m, 5/h.", "CELERY_DEFAULT_RATE_LIMIT")
    ] = None
    rate_limit_scope: Annotated[
        Literal["worker", "cluster"], opt("Whether rate limits apply to each worker, or to all workers together.")
    ] = "worker"
    rate_limit_store: Annotated[
        str | None,
        opt(
            "URL of the Redis server or SQLite file that counts rate limits of the cluster. "
            "Default: the broker, else the result store.",
            secret=True,
        ),
    ] = None
    annotations: Annotated[
        Any, opt("Changes to tasks' attributes: {task name or *: {attribute: value}}.", "CELERY_ANNOTATIONS")
    ] = None

    # ------------------------------------------------ results, events
    track_started: Annotated[bool, opt("Store the state STARTED.", "CELERY_TRACK_STARTED")] = False
    ignore_result: Annotated[bool, opt("Store no results.", "CELERY_IGNORE_RESULT")] = False
    store_errors_even_if_ignored: Annotated[
        bool, opt("Store failures even if results are ignored.", "CELERY_STORE_ERRORS_EVEN_IF_IGNORED")
    ] = False
    send_sent_event: Annotated[bool, opt("Clients send task-sent events.", "CELERY_SEND_TASK_SENT_EVENT")] = False

    # ------------------------------------------------ messages
    serializer: Annotated[str, opt("Serializer of messages.", "CELERY_TASK_SERIALIZER")] = "json"
    compression: Annotated[
        str | None, opt("Compression of messages: gzip, bzip2, ….", "CELERY_MESSAGE_COMPRESSION")
    ] = None
    protocol: Annotated[Literal[1, 2], opt("Version of the message format to send.", "CELERY_TASK_PROTOCOL")] = 2
    publish_retry: Annotated[bool, opt("Retry when a message cannot be sent.", "CELERY_TASK_PUBLISH_RETRY")] = True
    publish_retry_policy: Annotated[RetryPolicy, opt("How to retry.", "CELERY_TASK_PUBLISH_RETRY_POLICY")] = (
        msgspec.field(default_factory=RetryPolicy)
    )
    repr_maxlevels: Annotated[Natural, opt("Levels of nesting in the repr of arguments.", "CELERY_REPR_MAXLEVELS")] = 3

    # ------------------------------------------------ eager
    always_eager: Annotated[bool, opt("Run tasks in the calling process, without a broker.", "CELERY_ALWAYS_EAGER")] = (
        False
    )
    store_eager_result: Annotated[bool, opt("Store the results of eager tasks.", "CELERY_STORE_EAGER_RESULT")] = False
    eager_propagates: Annotated[
        bool, opt("Raise the exceptions of eager tasks.", "CELERY_EAGER_PROPAGATES_EXCEPTIONS")
    ] = False
    allow_error_cb_on_chord_header: Annotated[
        bool, opt("Call error callbacks for tasks of a chord's header too.", "CELERY_ALLOW_ERROR_CB_ON_CHORD_HEADER")
    ] = False
