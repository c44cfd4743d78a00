"""How a process that did not start as the worker gets something to run.

A pool of processes passes `PoolContext.recipe` (JSON-able) to a fresh interpreter, which calls `load`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from framework.api.pool import Workload


def load(recipe: Mapping[str, Any]) -> Workload:
    """Build the workload that `recipe` describes: import the application, read no configuration again.

    Raises whatever importing the application raises.
    """
    # By name: the contract must not import the worker that fulfils it.
    module, _, factory = str(recipe["factory"]).partition(":")
    return cast("Workload", getattr(import_module(module), factory)(recipe))
