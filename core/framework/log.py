"""Loggers for tasks."""

from __future__ import annotations

import logging

#: The parent of all of them; the worker formats its records with the name and id of the running task.
TASK_LOGGER = "framework.task"


def get_task_logger(name: str) -> logging.Logger:
    """Return a logger for use inside tasks; in a worker its lines carry the task's name and id.

    `name` is conventionally ``__name__``.
    """
    if name == TASK_LOGGER or name.startswith(f"{TASK_LOGGER}."):
        return logging.getLogger(name)
    return logging.getLogger(f"{TASK_LOGGER}.{name}")
