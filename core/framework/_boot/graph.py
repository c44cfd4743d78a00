"""The dependency graph of steps.

1. Orders steps so that each step follows its requirements (`graphlib`).
2. A requirement that no step provides, a name provided twice, or a cycle is an error that names the steps and their
   distributions.
"""

from __future__ import annotations

import difflib
import graphlib
import itertools
from collections.abc import Iterable, Sequence

import msgspec

from framework.exceptions import GraphCycle, GraphError, GraphGap


class GraphNode(msgspec.Struct, frozen=True, kw_only=True):
    """A step in the graph: its name and dependencies."""

    name: str
    requires: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    #: Distribution and version that provide the step.
    origin: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which other steps can require this one."""
        return (self.name, *self.provides)


def arrange(nodes: Iterable[GraphNode], absent: dict[str, str] | None = None) -> list[GraphNode]:
    """Return `nodes` ordered so that each follows its requirements; ties keep the order given.

    `absent` maps the names of steps that do not run to the reason, for error texts.
    Raises `GraphCycle`, `GraphGap`, or `GraphError` for a name provided twice.
    """
    ordered = list(nodes)
    providers = _providers(ordered)
    position = {node.name: index for index, node in enumerate(ordered)}
    by_name = {node.name: node for node in ordered}
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for node in ordered:
        needed = [_provider(node, required, providers, absent or {}) for required in node.requires]
        optional = [providers[name] for name in node.after if name in providers]
        sorter.add(
            node.name, *(other.name for other in (*needed, *optional) if other.name != node.name or other in needed)
        )
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        # graphlib lists predecessors first and repeats the first name at the end.
        raise _cycle([by_name[name] for name in error.args[1]]) from None
    result: list[GraphNode] = []
    ready: list[str] = []
    while sorter.is_active():
        ready.extend(sorter.get_ready())
        # One step at a time, in the order given: every start has the same order.
        ready.sort(key=position.__getitem__)
        name = ready.pop(0)
        sorter.done(name)
        result.append(by_name[name])
    return result


def edges(nodes: Sequence[GraphNode]) -> list[tuple[str, str]]:
    """Return the pairs ``(step, required step)`` among `nodes`, each once."""
    providers = _providers(nodes)
    return list(
        dict.fromkeys(
            (node.name, providers[needed].name)
            for node in nodes
            for needed in (*node.requires, *node.after)
            if needed in providers and providers[needed].name != node.name
        )
    )


def _providers(nodes: Sequence[GraphNode]) -> dict[str, GraphNode]:
    providers: dict[str, GraphNode] = {}
    for node in nodes:
        for name in node.names:
            if (other := providers.get(name)) is not None:
                raise GraphError(
                    f"both the step {other.name!r} of {other.origin} and the step {node.name!r} of {node.origin} "
                    f"provide {name!r}: uninstall one of them"
                )
            providers[name] = node
    return providers


def _provider(node: GraphNode, required: str, providers: dict[str, GraphNode], absent: dict[str, str]) -> GraphNode:
    if (provider := providers.get(required)) is not None:
        return provider
    if required in absent:
        why = f"which does not run: {absent[required]}"
    else:
        close = difflib.get_close_matches(required, providers, n=1)
        why = "which no step provides" + (f"; did you mean {close[0]!r}?" if close else "")
    raise GraphGap(f"the step {node.name!r} of {node.origin} requires {required!r}, {why}")


def _cycle(chain: Sequence[GraphNode]) -> GraphCycle:
    pairs = [
        f"{later.name!r} ({later.origin}) requires {earlier.name!r}" for earlier, later in itertools.pairwise(chain)
    ]
    return GraphCycle("these steps require each other in a cycle: " + ", ".join(reversed(pairs)))
