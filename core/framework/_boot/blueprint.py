"""A blueprint: a set of steps that starts and stops as one.

1. Asks each step whether it is enabled, and keeps the reason if it is not.
2. Starts the steps in the graph's order. If one fails, the blueprint stops the started steps in reverse order and
   raises `StepFailed`; a step whose policy is ``degrade`` is left out instead.
3. Stops the steps in reverse order under one deadline: `stop` for all, then `close` for all. Stopping twice, or before
   a start, is harmless.
4. `blueprint` makes a blueprint of the built-in steps and the installed ones (entry points of ``framework.steps``).
5. Holds the board on which steps share objects; a step can read only the names that it requires.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from framework import __version__
from framework._boot import catalog, loader
from framework._boot.graph import GraphNode, arrange
from framework.api.step import Step
from framework.exceptions import FrameworkError, GraphError, StepFailed

logger = logging.getLogger(__name__)

State = Literal["new", "starting", "started", "failed", "stopping", "stopped"]


class StepState(msgspec.Struct, kw_only=True):
    """A step, its origin, and whether it runs."""

    step: Step
    origin: str
    #: Why the step does not run; None: it runs.
    absent: str | None = None
    began: bool = False

    @property
    def node(self) -> GraphNode:
        """The graph node of the step."""
        step = self.step
        return GraphNode(
            name=step.name, requires=step.requires, after=step.after, provides=step.provides, origin=self.origin
        )


class Blueprint:
    """A set of steps that starts and stops as one."""

    def __init__(
        self, name: str, parts: Iterable[StepState], settings: Any, given: Mapping[str, Any] | None = None
    ) -> None:
        """Order the steps that are enabled with `settings`.

        `given` is on the board before the first step starts. Raises `GraphError` (see `framework._boot.graph`).
        """
        self.name = name
        self.state: State = "new"
        self.parts = list(parts)
        self._given = dict(given or {})
        self._board: dict[str, Any] = {}
        for part in self.parts:
            part.absent = part.step.enabled(settings)
        taking_part = {part.step.name: part for part in self.parts if part.absent is None}
        absent = {name: part.absent for part in self.parts if part.absent is not None for name in part.node.names}
        provided = [GraphNode(name=name, origin="the worker") for name in self._given]
        order = arrange([*provided, *(part.node for part in taking_part.values())], absent)
        self.order = [taking_part[node.name] for node in order if node.name in taking_part]

    def start(self) -> None:
        """Start every step in order.

        If a required step fails, raises its error when that is a `FrameworkError`, else `StepFailed` from it.
        """
        self.state = "starting"
        for part in self.order:
            try:
                self._start(part)
            except Exception as error:  # whatever a step raises, the started steps must be stopped
                if part.step.policy == "degrade":
                    self._leave_out(part, error)
                    continue
                self.state = "failed"
                self._stop_started(0.0)
                if isinstance(error, FrameworkError):
                    raise
                raise StepFailed(
                    f"the step {part.step.name!r} of {part.origin} could not start: {type(error).__name__}: {error}"
                ) from error
        self.state = "started"

    def _start(self, part: StepState) -> None:
        for other in self.order:
            if other.absent is not None and not set(part.step.requires).isdisjoint(other.node.names):
                raise StepFailed(
                    f"the step {part.step.name!r} of {part.origin} requires {other.step.name!r}, which {other.absent}"
                )
        part.began = True
        logger.debug("%s: starting %s", self.name, part.step.name)
        part.step.start(_StepBoard(self, part.step))

    def _leave_out(self, part: StepState, error: Exception) -> None:
        logger.error("Continuing without the step %r of %s: %s", part.step.name, part.origin, error)
        part.absent = f"could not start: {error}"
        if part.began:
            part.began = False
            self._call_and_log(part, "stop", 0.0)
            self._call_and_log(part, "close")

    @property
    def degraded(self) -> dict[str, str]:
        """The steps that failed to start, by name, with the reason."""
        return {part.step.name: part.absent for part in self.order if part.absent is not None}

    def stop(self, deadline: float) -> None:
        """Stop the started steps in reverse order by `deadline` (monotonic seconds), then close them."""
        if self.state in ("started", "starting"):
            self.state = "stopping"
            self._stop_started(deadline)
            self.state = "stopped"

    def _stop_started(self, deadline: float) -> None:
        began = [part for part in reversed(self.order) if part.began]
        # All are stopped before any is closed: a step may need its requirements until it has stopped.
        for part in began:
            self._call_and_log(part, "stop", deadline)
        for part in began:
            self._call_and_log(part, "close")
            part.began = False

    def _call_and_log(self, part: StepState, verb: str, *arguments: float) -> None:
        logger.debug("%s: %s %s", self.name, verb, part.step.name)
        try:
            getattr(part.step, verb)(*arguments)
        except Exception:  # the other steps must be stopped all the same
            logger.exception("The step %r of %s failed to %s", part.step.name, part.origin, verb)

    def get(self, name: str) -> Any:
        """Return the object that was provided as `name`. Raises `GraphError` if no step has provided it."""
        for board in (self._board, self._given):
            if name in board:
                return board[name]
        raise GraphError(f"no step of the {self.name} graph has provided {name!r}")

    def info(self) -> dict[str, Any]:
        """Return the `info` of every started step, merged."""
        merged: dict[str, Any] = {}
        for part in self.order:
            if part.began:
                merged.update(part.step.info())
        return merged


class _StepBoard:
    """The board, limited to the names that one step declares."""

    def __init__(self, blueprint: Blueprint, step: Step) -> None:
        self._blueprint = blueprint
        self._step = step

    def get(self, name: str) -> Any:
        step = self._step
        if name not in step.requires and not (name in step.after and self._has(name)):
            raise GraphError(
                f"the step {step.name!r} asked for {name!r} without requiring it: add it to its `requires`"
            )
        return self._blueprint.get(name)

    def find(self, name: str) -> Any:
        step = self._step
        if name not in step.after:
            raise GraphError(f"the step {step.name!r} asked for {name!r} without naming it in its `after`")
        return self._blueprint.get(name) if self._has(name) else None

    def put(self, name: str, value: Any) -> None:
        step = self._step
        if name != step.name and name not in step.provides:
            raise GraphError(
                f"the step {step.name!r} put {name!r} on the board without providing it: add it to its `provides`"
            )
        self._blueprint._board[name] = value

    def _has(self, name: str) -> bool:
        return name in self._blueprint._board or name in self._blueprint._given


# ---------------------------------------------------------------- built-in and installed steps

ORIGIN = f"framework {__version__}"


class GraphSource(NamedTuple):
    """The built-in steps of a graph and the names on its board before it starts."""

    name: Literal["worker", "consumer"]
    built_in: Sequence[Step]
    #: Names that the starter of the graph puts on the board.
    given: tuple[str, ...]


def _installed_steps(graph: Literal["worker", "consumer"], built_in: Iterable[Step]) -> list[StepState]:
    """Return the steps of `graph`: `built_in`, then the installed ones."""
    found = [StepState(step=step, origin=getattr(step, "origin", ORIGIN)) for step in built_in]
    for info in catalog.plugins("step"):
        step_type = loader.load("step", info.name)
        if step_type.graph == graph:
            found.append(StepState(step=step_type(), origin=f"{info.distribution} {info.version}"))
    return found


def blueprint(
    graph: Literal["worker", "consumer"], built_in: Iterable[Step], settings: Any, given: dict[str, Any] | None = None
) -> Blueprint:
    """Return a blueprint of the built-in and installed steps of `graph`. Raises `GraphError`."""
    return Blueprint(graph, _installed_steps(graph, built_in), settings, given)
