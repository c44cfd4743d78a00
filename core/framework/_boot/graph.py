"""The dependency graph of steps.

1. Orders steps so that everything comes after what it requires (`graphlib`).
2. A requirement that nothing provides, a name taken twice, or a circle is an error that prints the whole chain and says
   which distribution brought each link.
"""

from __future__ import annotations

import difflib
import graphlib
import itertools
from collections.abc import Iterable, Sequence

import msgspec

from framework.exceptions import GraphCycle, GraphError, GraphGap


class GraphNode(msgspec.Struct, frozen=True, kw_only=True):
    """A step as the graph sees it."""

    name: str
    requires: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    #: Who brought it: distribution and version.
    origin: str

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that others may require of it."""
        return (self.name, *self.provides)


def arrange(nodes: Iterable[GraphNode], absent: dict[str, str] | None = None) -> list[GraphNode]:
    """Return `nodes` in an order in which each comes after what it requires; ties keep the order given.

    `absent` maps the names of steps that stay out to the reason, for the text of an error.
    Raises `GraphCycle`, `GraphGap`, or `GraphError` for a name provided twice.
    """
    ordered = list(nodes)
    providers = _providers(ordered)
    position = {node.name: index for index, node in enumerate(ordered)}
    by_name = {node.name: node for node in ordered}
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for node in ordered:
        needed = [_provider(node, want, providers, absent or {}) for want in node.requires]
        wished = [providers[want] for want in node.after if want in providers]
        sorter.add(
            node.name,
            *(other.name for other in (*needed, *wished) if other.name != node.name or other in needed),
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
        # One at a time, the earliest given first: the order is the same on every start.
        ready.sort(key=position.__getitem__)
        name = ready.pop(0)
        sorter.done(name)
        result.append(by_name[name])
    return result


def edges(nodes: Sequence[GraphNode]) -> list[tuple[str, str]]:
    """Return ``(step, step that it requires)`` for every such pair among `nodes`, once."""
    providers = _providers(nodes)
    return list(
        dict.fromkeys(
            (node.name, providers[want].name)
            for node in nodes
            for want in (*node.requires, *node.after)
            if want in providers and providers[want].name != node.name
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


def _provider(node: GraphNode, want: str, providers: dict[str, GraphNode], absent: dict[str, str]) -> GraphNode:
    if (provider := providers.get(want)) is not None:
        return provider
    if want in absent:
        why = f"which stays out: {absent[want]}"
    else:
        close = difflib.get_close_matches(want, providers, n=1)
        why = "which nothing provides" + (f"; did you mean {close[0]!r}?" if close else "")
    raise GraphGap(f"the step {node.name!r} of {node.origin} requires {want!r}, {why}")


def _cycle(chain: Sequence[GraphNode]) -> GraphCycle:
    links = [
        f"{later.name!r} ({later.origin}) requires {earlier.name!r}" for earlier, later in itertools.pairwise(chain)
    ]
    return GraphCycle("these steps require each other in a circle: " + ", ".join(reversed(links)))
