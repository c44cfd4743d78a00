"""Loggers for use inside tasks."""

from __future__ import annotations

import logging

#: Name of the parent of all task loggers; the worker adds the name and id of the running task to its records.
TASK_LOGGER = "framework.task"


def get_task_logger(name: str) -> logging.Logger:
    """Return a logger for use inside tasks; in a worker its lines show the task's name and id.

    `name` is conventionally ``__name__``.
    """
    if name == TASK_LOGGER or name.startswith(f"{TASK_LOGGER}."):
        return logging.getLogger(name)
    return logging.getLogger(f"{TASK_LOGGER}.{name}")
