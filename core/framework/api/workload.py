"""Builds the workload in a process of its own.

A pool of processes passes `PoolContext.recipe` (JSON-able) to a fresh interpreter, which calls `load`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from framework.api.pool import Workload


def load(recipe: Mapping[str, Any]) -> Workload:
    """Build the workload from `recipe`: import the application, and do not read the configuration again.

    Raises any exception of the application's import.
    """
    # Imported by name: the API must not depend on the worker.
    module, _, factory = str(recipe["factory"]).partition(":")
    return cast("Workload", getattr(import_module(module), factory)(recipe))
