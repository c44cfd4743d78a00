"""Every setting of the framework: one object per option.

1. A table of the config file is a `msgspec.Struct`; a field is an option: key, type, limits, default, help.
2. `opt` adds what is not a type: older names, flags of `framework worker`, environment variables, secrecy.
3. The file's tables, the flat names of `app.conf` (``[worker] pool`` is ``worker_pool``), the flags, the
   environment, the JSON Schema, the manual and `framework config show` are all made from these structs.

Durations are in seconds. Long for a module, on purpose: the catalogue of options is read in one place.
"""

# No `from __future__ import annotations`: evaluating two hundred annotation strings would cost a start 5 ms.

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL"]
#: ``[<family>.<plugin name>]``: options of a plugin, checked against its own struct when it is loaded.
PluginTables = dict[str, dict[str, Any]]


def opt(
    help: str,  # noqa: A002 - what the argument is called everywhere else
    *old: str,
    flag: tuple[str, ...] = (),
    hidden: tuple[str, ...] = (),
    value: Any = None,
    metavar: str | None = None,
    env: tuple[str, ...] = (),
    secret: bool = False,
    since: str | None = None,
) -> Meta:
    """Describe an option.

    `old`: older names. `flag`: spellings on the command line of `framework worker`; `hidden`: further ones,
    accepted but not listed; `value`: what a flag without an argument sets. `env`: variables besides
    ``FRAMEWORK_<TABLE>_<KEY>``. `secret`: masked when shown, may be read from a file (``<key>_file``).
    `since`: why the option is not available yet, in words; setting it is refused on the command line.
    """
    extra = {
        "old": old,
        "flag": flag,
        "hidden": hidden,
        "value": value,
        "metavar": metavar,
        "env": env,
        "secret": secret,
        "since": since,
    }
    return Meta(description=help, extra=extra)


class Table(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A table of the config file."""


class WorkerSettings(Table):
    """``[worker]``: the process that runs tasks."""

    # ------------------------------------------------ identity, files
    hostname: Annotated[
        str | None,
        opt("Node name; %h, %n, %d expand. Default celery@%h.", flag=("-n", "--hostname"), metavar="NAME"),
    ] = None
    loglevel: Annotated[
        Level,
        opt(
            "Log level: DEBUG, INFO, WARNING, ERROR, CRITICAL or FATAL.",
            flag=("-l", "--loglevel"),
            metavar="LEVEL",
        ),
    ] = "WARNING"
    logfile: Annotated[
        str | None,
        opt("Log to this file; %n, %h, %d, %i, %I, %p expand. Default: stderr.", flag=("-f", "--logfile")),
    ] = None
    pidfile: Annotated[
        str | None,
        opt(
            "Write the process id to this file; refuse to start when it names a live process.",
            flag=("--pidfile",),
        ),
    ] = None
    state_db: Annotated[
        str | None,
        opt(
            "Keep revoked task ids in this file across restarts; %n, %h, %d, %p expand.",
            "CELERYD_STATE_DB",
            flag=("-S", "--statedb"),
            metavar="PATH",
        ),
    ] = None
    uid: Annotated[str | int | None, opt("Run as this user, by name or number.", flag=("--uid",))] = None
    gid: Annotated[
        str | int | None, opt("Run as this group. Default: that of the user.", flag=("--gid",), metavar="GID")
    ] = None
    umask: Annotated[
        str | None, opt('File mode creation mask in octal, as in "027".', flag=("--umask",), metavar="OCTAL")
    ] = None
    executable: Annotated[
        str | None, opt("Python to run a detached worker with.", flag=("--executable",), metavar="PYTHON")
    ] = None

    # ------------------------------------------------ pool
    pool: Annotated[
        str,
        opt(
            "Where tasks run: the name of an installed pool plugin.",
            "CELERYD_POOL",
            flag=("-P", "--pool"),
            metavar="NAME",
        ),
    ] = "prefork"
    concurrency: Annotated[
        Count | Literal["auto"] | None,
        opt(
            "Slots: processes, threads, greenlets or coroutines. auto: the CPUs this process may use (cgroup, "
            "affinity). Default: auto, and 100 for asyncio.",
            "CELERYD_CONCURRENCY",
            flag=("-c", "--concurrency"),
            metavar="N|auto",
        ),
    ] = None
    pool_putlocks: Annotated[
        bool,
        opt(
            "Kept for old configurations; the pool never takes more than it has room for.",
            "CELERYD_POOL_PUTLOCKS",
        ),
    ] = True
    pool_restarts: Annotated[bool, opt("Allow the remote command pool_restart.", "CELERYD_POOL_RESTARTS")] = False
    pool_restart_modules: Annotated[
        list[str],
        opt("Modules that pool_restart may import or reload: names, or patterns such as proj.*."),
    ] = msgspec.field(default_factory=lambda: ["*"])
    pool_start_method: Annotated[
        Literal["fork", "spawn"],
        opt("How prefork makes its processes.", "CELERYD_POOL_START_METHOD", flag=("--pool-start-method",)),
    ] = "fork"
    proc_alive_timeout: Annotated[
        Seconds, opt("Seconds to wait for a new child to come up.", "CELERYD_PROC_ALIVE_TIMEOUT")
    ] = 10.0
    lost_wait: Annotated[
        Seconds,
        opt(
            "Kept for old configurations; what a child has sent is read as soon as it died, and nothing is waited for.",
            "CELERYD_WORKER_LOST_WAIT",
        ),
    ] = 10.0
    max_tasks_per_child: Annotated[
        Count | None,
        opt(
            "Replace a child process after this many tasks.",
            "CELERYD_MAX_TASKS_PER_CHILD",
            flag=("--max-tasks-per-child",),
            hidden=("--maxtasksperchild",),
            metavar="N",
        ),
    ] = None
    max_memory_per_child: Annotated[
        Count | None,
        opt(
            "Replace a child process after the task in which its memory exceeded this many KiB.",
            "CELERYD_MAX_MEMORY_PER_CHILD",
            flag=("--max-memory-per-child",),
            hidden=("--maxmemperchild",),
            metavar="KIB",
        ),
    ] = None
    autoscale: Annotated[
        str | None,
        opt(
            "Grow and shrink the pool between two sizes: MAX,MIN, in either order, or MAX alone.",
            flag=("--autoscale",),
            metavar="MAX,MIN",
        ),
    ] = None
    autoscaler: Annotated[
        str,
        opt(
            "How to scale: an autoscaler plugin's name, or a class path, module:Class.",
            "CELERYD_AUTOSCALER",
            flag=("--autoscaler",),
            metavar="NAME",
        ),
    ] = "queue"
    autoscale_keepalive: Annotated[
        Seconds,
        opt("Seconds for which the pool must have been too large before it shrinks.", env=("AUTOSCALE_KEEPALIVE",)),
    ] = 30.0
    autoreload: Annotated[
        bool,
        opt(
            "Run new code when a source file of the tasks changes. For development.",
            flag=("--autoreload",),
            value=True,
        ),
    ] = False
    autoreloader: Annotated[
        str | None, opt("Class path of another autoreloader, module:Class.", "CELERYD_AUTORELOADER")
    ] = None
    fsnotify: Annotated[
        str | None,
        opt(
            "How file changes are noticed: the name of an fsnotify plugin. Default: the best available.",
            env=("FRAMEWORK_FSNOTIFY", "CELERYD_FSNOTIFY"),
        ),
    ] = None
    stop_timeout: Annotated[
        Seconds | None,
        opt("Seconds a warm stop waits for running tasks before it turns cold. None: for ever."),
    ] = None
    soft_shutdown_timeout: Annotated[
        Seconds,
        opt(
            "Seconds that a cold stop first waits for running tasks; 0: none.",
            "CELERYD_SOFT_SHUTDOWN_TIMEOUT",
        ),
    ] = 0.0
    enable_soft_shutdown_on_idle: Annotated[
        bool, opt("Wait like that even when nothing runs.", "CELERYD_ENABLE_SOFT_SHUTDOWN_ON_IDLE")
    ] = False

    # ------------------------------------------------ queues, prefetch
    queues: Annotated[
        list[str] | None, opt("Consume from these queues only.", flag=("-Q", "--queues"), metavar="Q1,Q2")
    ] = None
    exclude_queues: Annotated[
        list[str] | None,
        opt("Consume from all queues but these.", flag=("-X", "--exclude-queues"), metavar="Q1,Q2"),
    ] = None
    purge: Annotated[
        bool,
        opt("Drop all waiting messages before starting.", flag=("--purge",), hidden=("--discard",), value=True),
    ] = False
    prefetch_multiplier: Annotated[
        Natural | Literal["auto"],
        opt(
            "Messages reserved per slot. auto: as many as tasks are short; 0: no limit.",
            "CELERYD_PREFETCH_MULTIPLIER",
            flag=("--prefetch-multiplier",),
            metavar="N|auto",
        ),
    ] = "auto"
    disable_prefetch: Annotated[
        bool,
        opt(
            "Reserve a message only when a slot is free; prefetch_multiplier does not matter then.",
            "CELERYD_DISABLE_PREFETCH",
            flag=("--disable-prefetch",),
            value=True,
        ),
    ] = False
    optimization: Annotated[
        Literal["default", "fair"],
        opt("Kept for old configurations; sharing out is always fair.", flag=("-O", "--optimization")),
    ] = "fair"
    eta_task_limit: Annotated[
        Count | None,
        opt(
            "Most messages held for their eta that take no room from others; None: any number.",
            "CELERYD_ETA_TASK_LIMIT",
        ),
    ] = None
    eta_park_after: Annotated[
        Seconds,
        opt("Seconds: a task whose eta is further ahead waits in the broker, where that can park messages, not here."),
    ] = 10.0
    enable_prefetch_count_reduction: Annotated[
        bool,
        opt(
            "Kept for old configurations; what runs on after a reconnection always counts as reserved.",
            "CELERYD_ENABLE_PREFETCH_COUNT_REDUCTION",
        ),
    ] = True
    direct: Annotated[bool, opt("Consume from a queue of this worker's own too: NODE.dq2.", "CELERY_WORKER_DIRECT")] = (
        False
    )
    detect_quorum_queues: Annotated[
        bool,
        opt("Kept for old configurations; quorum queues are always noticed.", "CELERYD_DETECT_QUORUM_QUEUES"),
    ] = True
    cancel_long_running_tasks_on_connection_loss: Annotated[
        bool,
        opt(
            "Terminate running tasks with late ack when the connection is lost: they run again. Others go on, as do "
            "all by default.",
            "CELERYD_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS",
        ),
    ] = False
    deduplicate_successful_tasks: Annotated[
        bool,
        opt(
            "Acknowledge a redelivered task with late ack that has succeeded already, here or by its stored result, "
            "and do not run it.",
            "CELERYD_DEDUPLICATE_SUCCESSFUL_TASKS",
        ),
    ] = False
    disable_rate_limits: Annotated[bool, opt("Ignore all rate limits.", "CELERY_DISABLE_RATE_LIMITS")] = False

    # ------------------------------------------------ control, events
    enable_remote_control: Annotated[bool, opt("Answer remote commands.", "CELERY_ENABLE_REMOTE_CONTROL")] = True
    send_task_events: Annotated[
        bool,
        opt(
            "Send task events from the start.",
            "CELERY_SEND_EVENTS",
            flag=("-E", "--task-events"),
            hidden=("--events",),
            value=True,
        ),
    ] = False
    gossip: Annotated[
        bool,
        opt(
            "Listen to the other workers' events, to know who is there.",
            flag=("--without-gossip",),
            value=False,
        ),
    ] = True
    mingle: Annotated[
        bool,
        opt("Ask the other workers for revoked tasks at start.", flag=("--without-mingle",), value=False),
    ] = True
    heartbeat: Annotated[bool, opt("Send heartbeat events.", flag=("--without-heartbeat",), value=False)] = True
    heartbeat_interval: Annotated[
        Annotated[float, Meta(gt=0)],
        opt(
            "Seconds between two heartbeat events.",
            flag=("--heartbeat-interval",),
            metavar="S",
        ),
    ] = 2.0
    health: Annotated[
        str | int | None,
        opt(
            "Answer /livez, /readyz and /metrics here: a port of the loopback interface, HOST:PORT, :PORT for all "
            "interfaces, or the path of a unix socket, in which %n, %h, %d, %p expand. Default: nowhere.",
            flag=("--health",),
            metavar="ADDRESS",
        ),
    ] = None
    health_patience: Annotated[
        Annotated[float, Meta(ge=3)],
        opt("Seconds without a turn of the loop, or without a task that begins, after which a worker is not live."),
    ] = 10.0
    revokes_max: Annotated[Count, opt("Most revoked task ids remembered.", env=("CELERY_WORKER_REVOKES_MAX",))] = 50_000
    revoke_expires: Annotated[
        Seconds, opt("Seconds that a revoked id is remembered.", env=("CELERY_WORKER_REVOKE_EXPIRES",))
    ] = 10_800.0
    successful_max: Annotated[
        Count,
        opt(
            "Most successful task ids remembered, if deduplicate_successful_tasks is on.",
            env=("CELERY_WORKER_SUCCESSFUL_MAX",),
        ),
    ] = 1_000
    successful_expires: Annotated[
        Seconds, opt("Seconds that a successful id is remembered.", env=("CELERY_WORKER_SUCCESSFUL_EXPIRES",))
    ] = 10_800.0

    # ------------------------------------------------ logging
    hijack_root_logger: Annotated[bool, opt("Replace the root logger's handlers.", "CELERYD_HIJACK_ROOT_LOGGER")] = True
    redirect_stdouts: Annotated[bool, opt("Send stdout and stderr of tasks to the log.", "CELERY_REDIRECT_STDOUTS")] = (
        True
    )
    redirect_stdouts_level: Annotated[Level, opt("Level of what tasks print.", "CELERY_REDIRECT_STDOUTS_LEVEL")] = (
        "WARNING"
    )
    log_format: Annotated[
        str,
        opt(
            'Format of a log line. "json": one JSON object a line, whatever task_log_format says.',
            "CELERYD_LOG_FORMAT",
            flag=("--log-json",),
            value="json",
        ),
    ] = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
    task_log_format: Annotated[str, opt("Format of a log line of a task.", "CELERYD_TASK_LOG_FORMAT")] = (
        "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
    )
    log_color: Annotated[
        bool | None,
        opt("Colour the log. None: only on a terminal, without a log file or NO_COLOR.", "CELERYD_LOG_COLOR"),
    ] = None
    log_datefmt: Annotated[str | None, opt("Date format of a log line.", "CELERYD_LOG_DATEFMT")] = None
    task_log_datefmt: Annotated[
        str | None, opt("Date format of a log line of a task. Default: log_datefmt.", "CELERYD_TASK_LOG_DATEFMT")
    ] = None

    # ------------------------------------------------ accepted, without effect here
    timer: Annotated[
        str | None,
        opt("Kept for old configurations; the loop has one timer.", "CELERYD_TIMER", "CELERYD_ETA_SCHEDULER"),
    ] = None
    timer_precision: Annotated[
        Seconds,
        opt(
            "Kept for old configurations; the loop wakes up when a timer is due.",
            "CELERYD_TIMER_PRECISION",
            "CELERYD_ETA_SCHEDULER_PRECISION",
        ),
    ] = 1.0
    consumer: Annotated[str | None, opt("Kept for old configurations; add steps instead.", "CELERYD_CONSUMER")] = None
    agent: Annotated[str | None, opt("Kept for old configurations; add steps instead.", "CELERYD_AGENT")] = None


class RetryPolicy(Table):
    """How publishing is tried again."""

    max_retries: Annotated[Natural | None, opt("Most tries after the first; None: for ever.")] = 3
    interval_start: Annotated[Seconds, opt("Seconds before the first of them.")] = 0.0
    interval_step: Annotated[Seconds, opt("Seconds added each time.")] = 0.2
    interval_max: Annotated[Seconds, opt("Most seconds between two tries.")] = 1.0
    retry_errors: Annotated[
        Any, opt("Kept for old configurations; what is tried again is what the connection could not take.")
    ] = None


class TaskSettings(Table):
    """``[task]``: what holds for every task that does not say otherwise, and where messages go."""

    # ------------------------------------------------ queues, routes
    queues: Annotated[
        Any,
        opt(
            "Queues by name, [task.queues.<name>] with exchange, routing_key …; in code a list of Queue.",
            "CELERY_QUEUES",
        ),
    ] = None
    default_queue: Annotated[str, opt("The queue of tasks that are routed nowhere.", "CELERY_DEFAULT_QUEUE")] = "celery"
    default_exchange: Annotated[
        str | None, opt("Its exchange. None: named as the queue.", "CELERY_DEFAULT_EXCHANGE")
    ] = None
    default_exchange_type: Annotated[str, opt("Type of that exchange.", "CELERY_DEFAULT_EXCHANGE_TYPE")] = "direct"
    default_routing_key: Annotated[
        str | None, opt("Its routing key. None: named as the queue.", "CELERY_DEFAULT_ROUTING_KEY")
    ] = None
    default_queue_type: Annotated[Literal["classic", "quorum"], opt("Kind of the default queue (AMQP).")] = "classic"
    default_delivery_mode: Annotated[
        Literal[1, 2],
        opt("1: the broker may keep messages in memory only. 2: on disk.", "CELERY_DEFAULT_DELIVERY_MODE"),
    ] = 2
    create_missing_queues: Annotated[
        bool, opt("Define queues that are named but not defined.", "CELERY_CREATE_MISSING_QUEUES")
    ] = True
    create_missing_queue_type: Annotated[Literal["classic", "quorum"], opt("Kind of those queues (AMQP).")] = "classic"
    create_missing_queue_exchange_type: Annotated[str | None, opt("Type of their exchange. None: direct.")] = None
    queue_max_priority: Annotated[
        Count | None, opt("x-max-priority of all queues (AMQP).", "CELERY_QUEUE_MAX_PRIORITY")
    ] = None
    default_priority: Annotated[Natural | None, opt("Priority of messages.", "CELERY_DEFAULT_PRIORITY")] = None
    inherit_parent_priority: Annotated[
        bool, opt("Children take their parent's priority.", "CELERY_INHERIT_PARENT_PRIORITY")
    ] = False
    routes: Annotated[
        Any, opt("Routing rules: {pattern: {queue, …}}, a function, or a list of them.", "CELERY_ROUTES")
    ] = None

    # ------------------------------------------------ delivery
    acks_late: Annotated[
        bool,
        opt(
            "Acknowledge a message when its task has ended, so that a crash repeats it instead of losing it.",
            "CELERY_ACKS_LATE",
        ),
    ] = False
    acks_on_failure_or_timeout: Annotated[
        bool,
        opt("With acks_late: acknowledge failed and timed out tasks too.", "CELERY_ACKS_ON_FAILURE_OR_TIMEOUT"),
    ] = True
    acks_on_failure: Annotated[bool | None, opt("The same for failures alone. None: acks_on_failure_or_timeout.")] = (
        None
    )
    acks_on_timeout: Annotated[
        bool | None, opt("The same for time limits alone. None: acks_on_failure_or_timeout.")
    ] = None
    reject_on_worker_lost: Annotated[
        bool | None,
        opt(
            "With acks_late: give the message back when the process that ran it died.",
            "CELERY_REJECT_ON_WORKER_LOST",
        ),
    ] = None
    retry_on_worker_lost: Annotated[bool, opt("Retry a task whose process died.", "CELERY_RETRY_ON_WORKER_LOST")] = (
        False
    )
    ends: Annotated[
        dict[str, str] | None,
        opt(
            "What follows each end of a task: {failure, soft_timeout, hard_timeout, worker_lost, shutdown} to ack, "
            "requeue, retry or dead-letter. Wins over the settings above."
        ),
    ] = None
    max_deliveries: Annotated[
        Count | None,
        opt("How often a message is handed out before it is a dead letter. None: 3 when the task acks late."),
    ] = None
    unknown_retries: Annotated[
        Natural,
        opt(
            "How often workers that do not have the task of a message hand it back to its queue, for one that has it, "
            "before it is a dead letter. 0: never."
        ),
    ] = 20
    unknown_delay: Annotated[Seconds, opt("Seconds between two times, half as much more or less.")] = 3.0
    dead_letter_queue: Annotated[
        str | None,
        opt("Where messages go that cannot be run; {queue}: the queue they came from. None: they are dropped."),
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
        Literal["worker", "cluster"],
        opt("Whether rate limits are each worker's, or all workers keep them together."),
    ] = "worker"
    rate_limit_store: Annotated[
        str | None,
        opt(
            "URL of the Redis or SQLite file that counts rate limits of the cluster. "
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
        bool, opt("Store failures even so.", "CELERY_STORE_ERRORS_EVEN_IF_IGNORED")
    ] = False
    send_sent_event: Annotated[bool, opt("Clients send task-sent events.", "CELERY_SEND_TASK_SENT_EVENT")] = False

    # ------------------------------------------------ messages
    serializer: Annotated[str, opt("Serializer of messages.", "CELERY_TASK_SERIALIZER")] = "json"
    compression: Annotated[
        str | None, opt("Compression of messages: gzip, bzip2, ….", "CELERY_MESSAGE_COMPRESSION")
    ] = None
    protocol: Annotated[Literal[1, 2], opt("Message version to send.", "CELERY_TASK_PROTOCOL")] = 2
    publish_retry: Annotated[bool, opt("Try again when a message cannot be sent.", "CELERY_TASK_PUBLISH_RETRY")] = True
    publish_retry_policy: Annotated[RetryPolicy, opt("How to try again.", "CELERY_TASK_PUBLISH_RETRY_POLICY")] = (
        msgspec.field(default_factory=RetryPolicy)
    )
    repr_maxlevels: Annotated[Natural, opt("Levels of nesting shown of arguments.", "CELERY_REPR_MAXLEVELS")] = 3
    remote_tracebacks: Annotated[
        bool,
        opt(
            "Kept for old configurations; the traceback of a failure is always kept, as text, in its result.",
            "CELERY_REMOTE_TRACEBACKS",
        ),
    ] = False

    # ------------------------------------------------ eager
    always_eager: Annotated[bool, opt("Run tasks where they are called, without a broker.", "CELERY_ALWAYS_EAGER")] = (
        False
    )
    store_eager_result: Annotated[bool, opt("Store the results of those.", "CELERY_STORE_EAGER_RESULT")] = False
    eager_propagates: Annotated[bool, opt("Raise the exceptions of those.", "CELERY_EAGER_PROPAGATES_EXCEPTIONS")] = (
        False
    )
    allow_error_cb_on_chord_header: Annotated[
        bool,
        opt("Call error callbacks for tasks of a chord's header too.", "CELERY_ALLOW_ERROR_CB_ON_CHORD_HEADER"),
    ] = False


class ResultSettings(Table):
    """``[result]``: where results are kept."""

    backend: Annotated[
        str | None,
        opt(
            "URL of the result store: redis://, rpc://, sqlite:///. None: the embedded broker's own file, "
            "else results are not kept. none://: results are not kept.",
            "CELERY_RESULT_BACKEND",
            env=("CELERY_RESULT_BACKEND",),
            secret=True,
        ),
    ] = None
    expires: Annotated[
        Seconds,
        opt("Seconds a result is kept; 0: for ever.", "CELERY_TASK_RESULT_EXPIRES", "CELERY_RESULT_EXPIRES"),
    ] = 86_400.0
    failure_expires: Annotated[
        Seconds | None, opt("The same for failures. None: as expires.", "CELERY_RESULT_FAILURE_EXPIRES")
    ] = None
    serializer: Annotated[str, opt("Serializer of results.", "CELERY_RESULT_SERIALIZER")] = "json"
    compression: Annotated[str | None, opt("Compression of results.", "CELERY_RESULT_COMPRESSION")] = None
    extended: Annotated[
        bool, opt("Keep name, arguments, worker and queue with a result.", "CELERY_RESULT_EXTENDED")
    ] = False
    persistent: Annotated[
        bool | None, opt("rpc: results survive a restart of the broker.", "CELERY_RESULT_PERSISTENT")
    ] = None
    exchange: Annotated[str, opt("Kept for old configurations.", "CELERY_RESULT_EXCHANGE")] = "celeryresults"
    exchange_type: Annotated[str, opt("Kept for old configurations.", "CELERY_RESULT_EXCHANGE_TYPE")] = "direct"
    cache_max: Annotated[
        int,
        opt(
            "Kept for old configurations; a result object keeps the end of its task once that was read.",
            "CELERY_MAX_CACHED_RESULTS",
        ),
    ] = -1
    chord_expires: Annotated[
        Seconds | None,
        opt("Seconds a chord's parts are kept. None: as expires.", "CELERY_RESULT_CHORD_EXPIRES"),
    ] = None
    chord_join_timeout: Annotated[
        Seconds, opt("Seconds to wait when a chord joins its results.", "CELERY_RESULT_CHORD_JOIN_TIMEOUT")
    ] = 3.0
    chord_retry_interval: Annotated[
        Seconds, opt("Seconds between two looks at a chord.", "CELERY_RESULT_CHORD_RETRY_INTERVAL")
    ] = 1.0
    accept_content: Annotated[
        list[str] | None,
        opt(
            "Content types accepted in results. None: accept_content.",
            "RESULT_ACCEPT_CONTENT",
            "CELERY_RESULT_ACCEPT_CONTENT",
        ),
    ] = None
    backend_transport_options: Annotated[
        dict[str, Any],
        opt(
            "Options of the result store, as [result_store.<name>].",
            "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS",
        ),
    ] = msgspec.field(default_factory=dict)
    backend_always_retry: Annotated[
        bool,
        opt(
            "Kept for old configurations; a worker keeps results until the store takes them.",
            "CELERY_RESULT_BACKEND_ALWAYS_RETRY",
        ),
    ] = False
    backend_max_retries: Annotated[
        Natural | None,
        opt(
            "Kept for old configurations; writing a result is tried again for as long as the worker runs.",
            "CELERY_RESULT_BACKEND_MAX_RETRIES",
        ),
    ] = None
    backend_base_sleep_between_retries_ms: Annotated[
        Natural,
        opt(
            "Kept for old configurations; the first new try comes after half a second.",
            "CELERY_RESULT_BACKEND_BASE_SLEEP_BETWEEN_RETRIES_MS",
        ),
    ] = 10
    backend_max_sleep_between_retries_ms: Annotated[
        Natural,
        opt(
            "Kept for old configurations; two tries are ten seconds apart at most.",
            "CELERY_RESULT_BACKEND_MAX_SLEEP_BETWEEN_RETRIES_MS",
        ),
    ] = 10_000


class BrokerSettings(Table):
    """``[broker]``: where messages wait."""

    url: Annotated[
        str,
        opt(
            "URL of the broker; several, parted by ; or a list, are tried in turn. Empty: the embedded one, "
            "in the file framework.db beside the config file, else in the current directory.",
            "BROKER_URL",
            "CELERY_BROKER",
            env=("CELERY_BROKER_URL",),
            secret=True,
        ),
    ] = ""
    read_url: Annotated[
        str | None,
        opt(
            "URL of the broker that workers consume from, and that remote control, events, queues, purge and dlq "
            "go to; several as for url. None: url.",
            env=("CELERY_BROKER_READ_URL",),
            secret=True,
        ),
    ] = None
    write_url: Annotated[
        str | None,
        opt(
            "URL of the broker that calls are published to; several as for url. None: url.",
            env=("CELERY_BROKER_WRITE_URL",),
            secret=True,
        ),
    ] = None
    transport: Annotated[str | None, opt("Scheme, where the URL has none.", "BROKER_TRANSPORT")] = None
    transport_options: Annotated[
        dict[str, Any], opt("Options of the transport, as [transport.<name>].", "BROKER_TRANSPORT_OPTIONS")
    ] = msgspec.field(default_factory=dict)
    connection_timeout: Annotated[Seconds, opt("Seconds to wait for a connection.", "BROKER_CONNECTION_TIMEOUT")] = 4.0
    connection_retry: Annotated[bool, opt("Connect again when the connection is lost.", "BROKER_CONNECTION_RETRY")] = (
        True
    )
    connection_retry_on_startup: Annotated[bool | None, opt("Try again at start. None: as connection_retry.")] = None
    connection_max_retries: Annotated[
        Natural | None,
        opt("Most tries; then the worker stops. None: it never gives up.", "BROKER_CONNECTION_MAX_RETRIES"),
    ] = None
    channel_error_retry: Annotated[
        bool, opt("Kept for old configurations; the worker always connects again after a channel error.")
    ] = False
    failover_strategy: Annotated[
        str | None, opt("Order of the URLs: round-robin or shuffle.", "BROKER_FAILOVER_STRATEGY")
    ] = None
    heartbeat: Annotated[Natural | None, opt("Seconds between heartbeats (AMQP); 0: none.", "BROKER_HEARTBEAT")] = 120
    heartbeat_checkrate: Annotated[
        Annotated[float, Meta(gt=0)],
        opt("Kept for old configurations; three checks an interval, always.", "BROKER_HEARTBEAT_CHECKRATE"),
    ] = 3.0
    pool_limit: Annotated[
        Natural | None,
        opt(
            "Kept for old configurations; the threads of a process share one connection for each of its uses.",
            "BROKER_POOL_LIMIT",
        ),
    ] = 10
    pool_acquire_timeout: Annotated[
        Seconds | None, opt("Kept for old configurations; there is no pool of connections to wait for.")
    ] = None
    use_ssl: Annotated[
        bool | dict[str, Any], opt("TLS: true, or {keyfile, certfile, ca_certs, …}.", "BROKER_USE_SSL")
    ] = False
    login_method: Annotated[str | None, opt("SASL mechanism (AMQP).", "BROKER_LOGIN_METHOD")] = None
    host: Annotated[str | None, opt("Host, where there is no URL.", "BROKER_HOST")] = None
    port: Annotated[int | None, opt("Port, where there is no URL.", "BROKER_PORT")] = None
    user: Annotated[str | None, opt("User, where there is no URL.", "BROKER_USER")] = None
    password: Annotated[str | None, opt("Password, where there is no URL.", "BROKER_PASSWORD", secret=True)] = None
    vhost: Annotated[str | None, opt("Virtual host, where there is no URL.", "BROKER_VHOST")] = None
    native_delayed_delivery_queue_type: Annotated[
        Literal["classic", "quorum"],
        opt("Kind of the queues of Celery's delayed delivery (AMQP)."),
    ] = "quorum"

    @property
    def reading(self) -> str:
        """The URL that workers listen at."""
        return self.read_url or self.url

    @property
    def writing(self) -> str:
        """The URL that calls are published to."""
        return self.write_url or self.url


class ControlSettings(Table):
    """``[control]``: remote control."""

    exchange: Annotated[str, opt("Name of the exchange, without .pidbox.", "CELERY_CONTROL_EXCHANGE")] = "celery"
    queue_ttl: Annotated[Seconds | None, opt("Seconds a command or reply waits.")] = 300.0
    queue_expires: Annotated[Seconds | None, opt("Seconds after which an unused queue goes away.")] = 10.0
    queue_exclusive: Annotated[bool, opt("The queue belongs to one connection.")] = True
    queue_durable: Annotated[bool, opt("The queue survives a restart of the broker.")] = False


class EventSettings(Table):
    """``[event]``: events for monitors."""

    exchange: Annotated[str, opt("Name of the exchange.", "CELERY_EVENT_EXCHANGE")] = "celeryev"
    queue_prefix: Annotated[str, opt("Prefix of monitors' queues.", "CELERY_EVENT_QUEUE_PREFIX")] = "celeryev"
    queue_ttl: Annotated[Seconds | None, opt("Seconds an event waits for a monitor.", "CELERY_EVENT_QUEUE_TTL")] = 5.0
    queue_expires: Annotated[
        Seconds | None,
        opt("Seconds after which a queue that nobody reads goes away.", "CELERY_EVENT_QUEUE_EXPIRES"),
    ] = 60.0
    queue_exclusive: Annotated[bool, opt("The queue belongs to one connection.")] = True
    queue_durable: Annotated[bool, opt("The queue survives a restart of the broker.")] = False
    serializer: Annotated[str, opt("Serializer of events.", "CELERY_EVENT_SERIALIZER")] = "json"


class RedisSettings(Table):
    """``[redis]``: older settings of a Redis result store; the URL says the same."""

    host: Annotated[str | None, opt("Host, where backend is just redis.", "CELERY_REDIS_HOST")] = None
    port: Annotated[int | None, opt("Port.", "CELERY_REDIS_PORT")] = None
    db: Annotated[int | str | None, opt("Database.", "CELERY_REDIS_DB")] = None
    username: Annotated[str | None, opt("User.", "CELERY_REDIS_USERNAME")] = None
    password: Annotated[str | None, opt("Password.", "CELERY_REDIS_PASSWORD", secret=True)] = None
    max_connections: Annotated[
        Count | None,
        opt(
            "Kept for old configurations; threads share one connection, and each that waits for results has its own.",
            "CELERY_REDIS_MAX_CONNECTIONS",
        ),
    ] = None
    socket_timeout: Annotated[
        Seconds | None,
        opt(
            "Kept for old configurations; use socket_timeout under [result_store.redis].", "CELERY_REDIS_SOCKET_TIMEOUT"
        ),
    ] = 120.0
    socket_connect_timeout: Annotated[
        Seconds | None,
        opt(
            "Kept for old configurations; use socket_connect_timeout under [result_store.redis].",
            "CELERY_REDIS_SOCKET_CONNECT_TIMEOUT",
        ),
    ] = None
    socket_keepalive: Annotated[
        bool,
        opt(
            "Kept for old configurations; use socket_keepalive under [result_store.redis].",
            "CELERY_REDIS_SOCKET_KEEPALIVE",
        ),
    ] = False
    retry_on_timeout: Annotated[
        bool,
        opt(
            "Kept for old configurations; a worker stores a result again after a time-out, as after a lost link.",
            "CELERY_REDIS_RETRY_ON_TIMEOUT",
        ),
    ] = False
    backend_use_ssl: Annotated[
        bool | dict[str, Any] | None, opt("TLS: true, or {ssl_certfile, …}.", "CELERY_REDIS_BACKEND_USE_SSL")
    ] = None


class BeatSettings(Table):
    """``[beat]``: the scheduler inside a worker."""

    scheduler: Annotated[
        str | None,
        opt("Scheduler class.", "CELERYBEAT_SCHEDULER", flag=("--scheduler",), since="the scheduler"),
    ] = None
    schedule_filename: Annotated[
        str,
        opt(
            "File of the schedule.",
            "CELERYBEAT_SCHEDULE_FILENAME",
            flag=("-s", "--schedule"),
            since="the scheduler",
        ),
    ] = "celerybeat-schedule"
    schedule: Annotated[Any, opt("The schedule.", "CELERYBEAT_SCHEDULE")] = None
    max_loop_interval: Annotated[
        Seconds, opt("Most seconds between two looks at the schedule.", "CELERYBEAT_MAX_LOOP_INTERVAL")
    ] = 0.0


class Settings(Table):
    """Everything, resolved."""

    app: Annotated[
        str | None,
        opt("The application: module, or module:attribute.", env=("CELERY_APP",)),
    ] = None
    imports: Annotated[list[str], opt("Modules imported at start.", "CELERY_IMPORTS")] = msgspec.field(
        default_factory=list
    )
    include: Annotated[
        list[str],
        opt("More modules imported at start.", "CELERY_INCLUDE", flag=("-I", "--include"), metavar="M1,M2"),
    ] = msgspec.field(default_factory=list)
    accept_content: Annotated[
        list[str],
        opt("Content types or serializers accepted in messages and commands.", "CELERY_ACCEPT_CONTENT"),
    ] = msgspec.field(default_factory=lambda: ["json"])
    enable_utc: Annotated[
        bool,
        opt(
            "Kept for old configurations; times are sent with their zone. One that comes without is in UTC, "
            "unless its message says otherwise.",
            "CELERY_ENABLE_UTC",
        ),
    ] = True
    timezone: Annotated[
        str | None,
        opt("Time zone of times that a call gives without one (eta, expires). None: UTC.", "CELERY_TIMEZONE"),
    ] = None

    worker: Annotated[WorkerSettings, opt("The process that runs tasks.")] = msgspec.field(
        default_factory=WorkerSettings
    )
    task: Annotated[TaskSettings, opt("What holds for every task.")] = msgspec.field(default_factory=TaskSettings)
    result: Annotated[ResultSettings, opt("Where results are kept.")] = msgspec.field(default_factory=ResultSettings)
    broker: Annotated[BrokerSettings, opt("Where messages wait.")] = msgspec.field(default_factory=BrokerSettings)
    control: Annotated[ControlSettings, opt("Remote control.")] = msgspec.field(default_factory=ControlSettings)
    event: Annotated[EventSettings, opt("Events for monitors.")] = msgspec.field(default_factory=EventSettings)
    redis: Annotated[RedisSettings, opt("Older settings of a Redis result store.")] = msgspec.field(
        default_factory=RedisSettings
    )
    beat: Annotated[BeatSettings, opt("The scheduler inside a worker.")] = msgspec.field(default_factory=BeatSettings)

    transport: Annotated[PluginTables, opt("Options of transports, by name.")] = msgspec.field(default_factory=dict)
    pool: Annotated[PluginTables, opt("Options of pools, by name.")] = msgspec.field(default_factory=dict)
    result_store: Annotated[PluginTables, opt("Options of result stores, by name.")] = msgspec.field(
        default_factory=dict
    )
    autoscaler: Annotated[PluginTables, opt("Options of autoscalers, by name.")] = msgspec.field(default_factory=dict)
    fsnotify: Annotated[PluginTables, opt("Options of file watchers, by name.")] = msgspec.field(default_factory=dict)
    nodes: Annotated[dict[str, dict[str, Any]], opt("Workers to start together: their [worker] settings, by name.")] = (
        msgspec.field(default_factory=dict)
    )


#: ``[<table>]``s of plugin options.
PLUGIN_TABLES = ("transport", "pool", "result_store", "autoscaler", "fsnotify")
