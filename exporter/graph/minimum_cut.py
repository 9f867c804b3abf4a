"""Minimum s-t cuts over named variables: labelling problems with two labels, solved exactly (Boykov, Veksler, Zabih 2001)."""

from __future__ import annotations

from typing import Final

import numpy as np

__all__ = ["SINK", "SOURCE", "MinimumCut"]

SOURCE: Final = "source"
SINK: Final = "sink"
_INFINITE: Final = 2**30  # capacities are int32


class MinimumCut:
    """A problem under construction. Variables come into being by being named; SOURCE and SINK are the terminals."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {SOURCE: 0, SINK: 1}
        self._edges: list[tuple[int, int, float | None]] = []

    def edge(self, tail: str, head: str, weight: float | None = None) -> None:
        """Charge `weight` (>= 0) when `tail` is on the source side and `head` on the sink side; None: that must not be."""
        self._edges.append((self._variable(tail), self._variable(head), weight))

    def sink_side(self) -> frozenset[str]:
        """Names on the sink side of a minimum cut; the source side wins where either is as cheap.

        Weights are rounded up to 2^-29 of their sum, since capacities are integers.
        """
        from scipy.sparse import coo_array, csr_array
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        size = len(self._index)
        finite = sum(weight for *_, weight in self._edges if weight is not None)
        unit = finite / 2**29 if not _whole(self._edges) or finite > 2**29 else 1.0
        capacity = [np.ceil(weight / unit) if weight else _INFINITE if weight is None else 0 for *_, weight in self._edges]
        rows, columns = [edge[0] for edge in self._edges], [edge[1] for edge in self._edges]
        graph = csr_array(coo_array((np.array(capacity, np.int64), (rows, columns)), shape=(size, size)).tocsr())
        graph.data = np.minimum(graph.data, _INFINITE).astype(np.int32)
        graph.indices, graph.indptr = graph.indices.astype(np.int32), graph.indptr.astype(np.int32)
        residual = graph - maximum_flow(graph, 0, 1).flow
        residual.eliminate_zeros()
        reaches_sink = breadth_first_order(csr_array(residual.T), 1, return_predecessors=False)
        names = list(self._index)
        return frozenset(names[int(index)] for index in reaches_sink)

    def _variable(self, name: str) -> int:
        return self._index.setdefault(name, len(self._index))


def _whole(edges: list[tuple[int, int, float | None]]) -> bool:
    return all(weight is None or float(weight).is_integer() for *_, weight in edges)
