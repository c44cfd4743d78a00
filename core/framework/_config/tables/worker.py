"""The table ``[worker]``."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from framework._config.tables.base import Count, Level, Natural, Seconds, Table, opt


class WorkerSettings(Table):
    """``[worker]``: the process that runs tasks."""

    # ------------------------------------------------ identity, files
    hostname: Annotated[
        str | None, opt("Node name; %h, %n, %d expand. Default celery@%h.", flag=("-n", "--hostname"), metavar="NAME")
    ] = None
    loglevel: Annotated[
        Level,
        opt("Log level: DEBUG, INFO, WARNING, ERROR, CRITICAL or FATAL.", flag=("-l", "--loglevel"), metavar="LEVEL"),
    ] = "WARNING"
    logfile: Annotated[
        str | None, opt("Log to this file; %n, %h, %d, %i, %I, %p expand. Default: stderr.", flag=("-f", "--logfile"))
    ] = None
    pidfile: Annotated[
        str | None,
        opt("Write the process id to this file; refuse to start when it names a live process.", flag=("--pidfile",)),
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
    force_root: Annotated[
        bool,
        opt(
            "Start as root although accept_content has pickle, with which a message can run any code.",
            env=("C_FORCE_ROOT",),
        ),
    ] = False
    executable: Annotated[
        str | None, opt("Python to run a detached worker with.", flag=("--executable",), metavar="PYTHON")
    ] = None

    # ------------------------------------------------ pool
    pool: Annotated[
        str, opt("Name of the pool plugin that runs the tasks.", "CELERYD_POOL", flag=("-P", "--pool"), metavar="NAME")
    ] = "prefork"
    concurrency: Annotated[
        Count | Literal["auto"] | None,
        opt(
            "Slots: processes, threads, greenlets or coroutines. auto: the CPUs this process may use (affinity, and "
            "the CPU quota of its cgroup, rounded up). Default: auto, and 100 for asyncio.",
            "CELERYD_CONCURRENCY",
            flag=("-c", "--concurrency"),
            metavar="N|auto",
        ),
    ] = None
    pool_max: Annotated[
        Count, opt("The most slots that remote control, by pool_grow or autoscale, may give the pool.")
    ] = 1000
    pool_restarts: Annotated[bool, opt("Allow the remote command pool_restart.", "CELERYD_POOL_RESTARTS")] = False
    pool_restart_modules: Annotated[
        list[str], opt("Modules that pool_restart may import or reload: names, or patterns such as proj.*.")
    ] = msgspec.field(default_factory=lambda: ["*"])
    pool_start_method: Annotated[
        Literal["fork", "spawn"],
        opt("How prefork starts its processes.", "CELERYD_POOL_START_METHOD", flag=("--pool-start-method",)),
    ] = "fork"
    proc_alive_timeout: Annotated[
        Annotated[float, Meta(ge=0.1)],
        opt(
            "Seconds that a new child may take for its set-up, after the import of the application.",
            "CELERYD_PROC_ALIVE_TIMEOUT",
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
        Count | Literal["auto"] | None,
        opt(
            "Replace a child process whose memory exceeds this many KiB, after its current task. auto: the memory of "
            "the machine, or the limit of the cgroup, divided by one more than the slots.",
            "CELERYD_MAX_MEMORY_PER_CHILD",
            flag=("--max-memory-per-child",),
            hidden=("--maxmemperchild",),
            metavar="KIB|auto",
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
            "Name of the autoscaler plugin, or a class path, module:Class.",
            "CELERYD_AUTOSCALER",
            flag=("--autoscaler",),
            metavar="NAME",
        ),
    ] = "queue"
    autoscale_keepalive: Annotated[
        Seconds, opt("Seconds for which the pool must be too large before it shrinks.", env=("AUTOSCALE_KEEPALIVE",))
    ] = 30.0
    autoreload: Annotated[
        bool,
        opt(
            "Reload the code when a source file of the tasks changes. For development.",
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
            "Name of the fsnotify plugin that detects file changes. Default: the best available.",
            env=("FRAMEWORK_FSNOTIFY", "CELERYD_FSNOTIFY"),
        ),
    ] = None
    stop_timeout: Annotated[
        Seconds | None, opt("Seconds a warm stop waits for running tasks before it turns cold. None: for ever.")
    ] = None
    settle_timeout: Annotated[
        Seconds,
        opt(
            "Seconds that a stopping worker, whose tasks have ended, waits until the result store and the broker have "
            "accepted their results and what follows them."
        ),
    ] = 10.0
    soft_shutdown_timeout: Annotated[
        Seconds,
        opt("Seconds that a cold stop first waits for running tasks; 0: none.", "CELERYD_SOFT_SHUTDOWN_TIMEOUT"),
    ] = 0.0
    enable_soft_shutdown_on_idle: Annotated[
        bool, opt("Wait for soft_shutdown_timeout even if no task runs.", "CELERYD_ENABLE_SOFT_SHUTDOWN_ON_IDLE")
    ] = False

    # ------------------------------------------------ queues, prefetch
    queues: Annotated[
        list[str] | None, opt("Consume from these queues only.", flag=("-Q", "--queues"), metavar="Q1,Q2")
    ] = None
    exclude_queues: Annotated[
        list[str] | None, opt("Consume from all queues but these.", flag=("-X", "--exclude-queues"), metavar="Q1,Q2")
    ] = None
    purge: Annotated[
        bool, opt("Drop all waiting messages before starting.", flag=("--purge",), hidden=("--discard",), value=True)
    ] = False
    prefetch_multiplier: Annotated[
        Natural | Literal["auto"],
        opt(
            "Messages reserved per slot. auto: more for shorter tasks; 0: no limit.",
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
    eta_task_limit: Annotated[
        Count | None,
        opt(
            "Most messages held for their eta that do not count toward the prefetch limit; None: no limit.",
            "CELERYD_ETA_TASK_LIMIT",
        ),
    ] = None
    eta_park_after: Annotated[
        Seconds,
        opt(
            "A task whose eta is more seconds ahead waits in the broker, not in the worker, if the broker can park it."
        ),
    ] = 10.0
    direct: Annotated[
        bool, opt("Consume also from the queue of this worker alone, NODE.dq2.", "CELERY_WORKER_DIRECT")
    ] = False
    cancel_long_running_tasks_on_connection_loss: Annotated[
        bool,
        opt(
            "Terminate running tasks with late ack when the connection is lost, so that they run again. Other tasks "
            "continue; by default all do.",
            "CELERYD_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS",
        ),
    ] = False
    deduplicate_successful_tasks: Annotated[
        bool,
        opt(
            "Do not run but acknowledge a redelivered task with late ack that has succeeded already, in this worker or "
            "by its stored result.",
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
        opt("Receive the events of other workers, to keep a list of them.", flag=("--without-gossip",), value=False),
    ] = True
    mingle: Annotated[
        bool, opt("Ask the other workers for revoked tasks at start.", flag=("--without-mingle",), value=False)
    ] = True
    heartbeat: Annotated[bool, opt("Send heartbeat events.", flag=("--without-heartbeat",), value=False)] = True
    heartbeat_interval: Annotated[
        Annotated[float, Meta(gt=0)],
        opt("Seconds between two heartbeat events.", flag=("--heartbeat-interval",), metavar="S"),
    ] = 2.0
    health: Annotated[
        str | int | None,
        opt(
            "Serve /livez, /readyz and /metrics here: a port of the loopback interface, HOST:PORT, :PORT for all "
            "interfaces, or the path of a unix socket, in which %n, %h, %d, %p expand. Default: not served.",
            flag=("--health",),
            metavar="ADDRESS",
        ),
    ] = None
    health_patience: Annotated[
        Annotated[float, Meta(ge=3)],
        opt("A worker is not live after this many seconds in which its loop made no turn, or no waiting task began."),
    ] = 10.0
    revokes_max: Annotated[Count, opt("Most revoked task ids kept.", env=("CELERY_WORKER_REVOKES_MAX",))] = 50_000
    revoke_expires: Annotated[
        Seconds, opt("Seconds that a revoked id is kept.", env=("CELERY_WORKER_REVOKE_EXPIRES",))
    ] = 10_800.0
    successful_max: Annotated[
        Count,
        opt(
            "Most successful task ids kept, if deduplicate_successful_tasks is on.",
            env=("CELERY_WORKER_SUCCESSFUL_MAX",),
        ),
    ] = 1_000
    successful_expires: Annotated[
        Seconds, opt("Seconds that a successful id is kept.", env=("CELERY_WORKER_SUCCESSFUL_EXPIRES",))
    ] = 10_800.0

    # ------------------------------------------------ logging
    hijack_root_logger: Annotated[bool, opt("Replace the root logger's handlers.", "CELERYD_HIJACK_ROOT_LOGGER")] = True
    redirect_stdouts: Annotated[bool, opt("Send stdout and stderr of tasks to the log.", "CELERY_REDIRECT_STDOUTS")] = (
        True
    )
    redirect_stdouts_level: Annotated[
        Level, opt("Log level of stdout and stderr of tasks.", "CELERY_REDIRECT_STDOUTS_LEVEL")
    ] = "WARNING"
    log_format: Annotated[
        str,
        opt(
            'Format of a log line. "json": one JSON object per line, regardless of task_log_format.',
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
