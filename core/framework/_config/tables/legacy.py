"""The tables ``[redis]``, which a URL replaces, and ``[beat]``, whose scheduler does not exist yet."""

from typing import Annotated, Any

from framework._config.tables.base import Seconds, Table, opt


class RedisSettings(Table):
    """``[redis]``: older settings of a Redis result store; its URL replaces them."""

    host: Annotated[str | None, opt("Host, if backend is just redis.", "CELERY_REDIS_HOST")] = None
    port: Annotated[int | None, opt("Port.", "CELERY_REDIS_PORT")] = None
    db: Annotated[int | str | None, opt("Database.", "CELERY_REDIS_DB")] = None
    username: Annotated[str | None, opt("User.", "CELERY_REDIS_USERNAME")] = None
    password: Annotated[str | None, opt("Password.", "CELERY_REDIS_PASSWORD", secret=True)] = None
    backend_use_ssl: Annotated[
        bool | dict[str, Any] | None, opt("TLS: true, or {ssl_certfile, …}.", "CELERY_REDIS_BACKEND_USE_SSL")
    ] = None


class BeatSettings(Table):
    """``[beat]``: the scheduler inside a worker."""

    scheduler: Annotated[
        str | None, opt("Scheduler class.", "CELERYBEAT_SCHEDULER", flag=("--scheduler",), since="the scheduler")
    ] = None
    schedule_filename: Annotated[
        str,
        opt("File of the schedule.", "CELERYBEAT_SCHEDULE_FILENAME", flag=("-s", "--schedule"), since="the scheduler"),
    ] = "celerybeat-schedule"
    schedule: Annotated[Any, opt("The schedule.", "CELERYBEAT_SCHEDULE")] = None
    max_loop_interval: Annotated[
        Seconds, opt("Most seconds between two checks of the schedule.", "CELERYBEAT_MAX_LOOP_INTERVAL")
    ] = 0.0
