"""Which steps there are.

the built-in ones and those that other distributions bring (entry points of ``framework.steps``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from framework import __version__
from framework._boot.blueprint import Blueprint, Part
from framework._plugins import catalog, loader
from framework.api.step import Step

ORIGIN = f"framework {__version__}"


def parts(graph: Literal["worker", "consumer"], built_in: Iterable[Step]) -> list[Part]:
    """Return the steps of `graph`: `built_in`, then those of other distributions."""
    found = [Part(step=step, origin=getattr(step, "origin", ORIGIN)) for step in built_in]
    for info in catalog.plugins("step"):
        step_type = loader.load("step", info.name)
        if step_type.graph == graph:
            found.append(Part(step=step_type(), origin=f"{info.distribution} {info.version}"))
    return found


def blueprint(
    graph: Literal["worker", "consumer"],
    built_in: Iterable[Step],
    settings: Any,
    given: dict[str, Any] | None = None,
) -> Blueprint:
    """Put the steps of `graph` in order. Raises `GraphError`."""
    return Blueprint(graph, parts(graph, built_in), settings, given)
