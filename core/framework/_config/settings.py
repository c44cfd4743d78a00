"""Every setting of the framework: one object per option.

1. A table of the config file is a `msgspec.Struct`; a field is an option: key, type, limits, default, help. The
   tables are in `framework._config.tables`, and `Settings` joins them.
2. `opt` adds older names, flags of `framework worker`, environment variables and secrecy.
3. The file's tables, the flat names of `app.conf` (``[worker] pool`` is ``worker_pool``), the flags, the
   environment, the JSON Schema, the manual and `framework config show` are all made from these structs,
   and from the list of settings without effect in `framework._config.tables.unused`.
"""

# No `from __future__ import annotations`, as in the tables: evaluating its strings would slow each start.

from typing import Annotated, Any

import msgspec

from framework._config.tables.base import PluginTables, Table, opt
from framework._config.tables.broker import BrokerSettings
from framework._config.tables.legacy import BeatSettings, RedisSettings
from framework._config.tables.monitoring import ControlSettings, EventSettings
from framework._config.tables.result import ResultSettings
from framework._config.tables.task import RetryPolicy, TaskSettings
from framework._config.tables.worker import WorkerSettings

#: The names for other packages.
__all__ = [
    "PLUGIN_TABLES",
    "BrokerSettings",
    "EventSettings",
    "ResultSettings",
    "RetryPolicy",
    "Settings",
    "TaskSettings",
    "WorkerSettings",
]


class Settings(Table):
    """All settings, merged."""

    app: Annotated[str | None, opt("The application: module, or module:attribute.", env=("CELERY_APP",))] = None
    imports: Annotated[list[str], opt("Modules imported at start.", "CELERY_IMPORTS")] = msgspec.field(
        default_factory=list
    )
    include: Annotated[
        list[str], opt("More modules imported at start.", "CELERY_INCLUDE", flag=("-I", "--include"), metavar="M1,M2")
    ] = msgspec.field(default_factory=list)
    accept_content: Annotated[
        list[str], opt("Content types or serializers accepted in messages and commands.", "CELERY_ACCEPT_CONTENT")
    ] = msgspec.field(default_factory=lambda: ["json"])
    timezone: Annotated[
        str | None, opt("Time zone of times given without one in calls (eta, expires). None: UTC.", "CELERY_TIMEZONE")
    ] = None

    worker: Annotated[WorkerSettings, opt("The process that runs tasks.")] = msgspec.field(
        default_factory=WorkerSettings
    )
    task: Annotated[TaskSettings, opt("Defaults of tasks, and routing.")] = msgspec.field(default_factory=TaskSettings)
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


#: Tables that hold the options of plugins, ``[<table>.<plugin>]``.
PLUGIN_TABLES = ("transport", "pool", "result_store", "autoscaler", "fsnotify")
