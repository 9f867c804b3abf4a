"""The minimum cut against all labellings of small problems."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.graph.minimum_cut import SINK, SOURCE, MinimumCut

NAMES = (SOURCE, "a", "b", "c", "d", SINK)
WEIGHTS = st.one_of(st.integers(0, 9), st.floats(0.01, 9), st.none())
EDGES = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), WEIGHTS), max_size=12)


def price(edges, sink_side) -> float:
    cut = [weight for tail, head, weight in edges if tail not in sink_side and head in sink_side]
    return float("inf") if None in cut else float(sum(cut))


@settings(deadline=None)
@given(EDGES)
def test_no_labelling_is_cheaper(edges):
    best = min(price(edges, {SINK, *free}) for n in range(5) for free in itertools.combinations(NAMES[1:-1], n))
    problem = MinimumCut()
    for edge in edges:
        problem.edge(*edge)
    found = problem.sink_side()
    assert SOURCE not in found or best == float("inf")
    if best < float("inf"):
        assert abs(price(edges, {SINK, *found}) - best) <= 1e-6 * max(best, 1)


def test_the_source_side_wins_a_tie():
    problem = MinimumCut()
    problem.edge(SOURCE, "a", 1)
    problem.edge("a", SINK, 1)
    assert "a" not in problem.sink_side()
