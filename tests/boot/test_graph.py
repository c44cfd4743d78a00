from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework._boot.graph import GraphNode, arrange, edges
from framework.exceptions import GraphCycle, GraphError, GraphGap


def node(name, *requires, provides=(), after=(), origin="acme 1.0"):
    return GraphNode(name=name, requires=requires, provides=provides, after=after, origin=origin)


def names(nodes):
    return [each.name for each in nodes]


def test_each_step_comes_after_what_it_requires():
    assert names(arrange([node("c", "b"), node("b", "a"), node("a")])) == ["a", "b", "c"]


def test_ties_keep_the_order_given():
    assert names(arrange([node("z"), node("y"), node("x", "y")])) == ["z", "y", "x"]


def test_what_a_step_provides_counts_like_its_name():
    assert names(arrange([node("user", "socket"), node("server", provides=("socket",))])) == ["server", "user"]


def test_after_orders_without_needing():
    assert names(arrange([node("late", after=("early", "nowhere")), node("early")])) == ["early", "late"]


def test_a_cycle_names_every_link_and_who_brought_it():
    nodes = [node("a", "b", origin="one 1.0"), node("b", "c", origin="two 2.0"), node("c", "a", origin="three 3.0")]
    with pytest.raises(GraphCycle) as caught:
        arrange(nodes)
    text = str(caught.value)
    for link in ("'a' (one 1.0) requires 'b'", "'b' (two 2.0) requires 'c'", "'c' (three 3.0) requires 'a'"):
        assert link in text


def test_a_step_that_requires_itself_is_a_cycle():
    with pytest.raises(GraphCycle, match=r"'a' .* requires 'a'"):
        arrange([node("a", "a")])


def test_a_cycle_beside_good_steps_is_found():
    with pytest.raises(GraphCycle):
        arrange([node("fine"), node("a", "b"), node("b", "a"), node("user", "fine", "a")])


def test_a_gap_names_step_origin_and_a_close_name():
    with pytest.raises(GraphGap, match=r"'user' of acme 1\.0 requires 'transprot'.*did you mean 'transport'"):
        arrange([node("user", "transprot"), node("transport")])


def test_a_gap_tells_why_the_step_stays_out():
    with pytest.raises(GraphGap, match="requires 'db', which does not run: no --statedb"):
        arrange([node("user", "db")], absent={"db": "no --statedb"})


def test_a_name_provided_twice_names_both():
    with pytest.raises(GraphError, match=r"'a' of one 1 .* 'b' of two 2 .*provide 'x'"):
        arrange([node("a", provides=("x",), origin="one 1"), node("b", provides=("x",), origin="two 2")])


def test_edges_point_at_the_provider():
    assert edges([node("user", "socket"), node("server", provides=("socket",))]) == [("user", "server")]


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=40))
def test_any_graph_is_ordered_or_refused(pairs):
    requires: dict[int, set[str]] = {n: set() for n in range(12)}
    for left, right in pairs:
        requires[left].add(str(right))
    nodes = [node(str(n), *sorted(needs)) for n, needs in requires.items()]
    try:
        order = names(arrange(nodes))
    except GraphCycle:
        assert _has_cycle(requires)
        return
    assert sorted(order) == sorted(str(n) for n in range(12))
    for n, needs in requires.items():
        assert all(order.index(need) < order.index(str(n)) for need in needs)


def _has_cycle(requires):
    left = {str(n): set(needs) for n, needs in requires.items()}
    while free := [n for n, needs in left.items() if not needs]:
        for n in free:
            del left[n]
        for needs in left.values():
            needs.difference_update(free)
    return bool(left)
