"""Dependency groups: which indices of which weights must be cut together, found from the operators' couplings.

Every index of every axis of every value is a vertex; a tie of a `Coupling` is edges between the vertices of one channel, and a connected
component is a class: all that must go when one of its indices goes. Working on single indices, not on whole axes, makes concats, splits,
flattens, grouped convolutions and shared weights the same case as a plain chain. What may not be cut is blocked at its vertices
and blocks its class; so nothing is cut that some operator did not explicitly allow.

The idea of groups by dependency: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from exporter.graph.values import is_constant, name_of, static_shape
from exporter.ops.base import Channels, Coupling, Refused, operator_of

__all__ = ["Group", "Groups", "Site", "end_of", "find_groups", "site_key"]

Site = tuple[str, int]  # (name of a value, axis)
Indices = np.ndarray[Any, np.dtype[np.int64]]
_Port = tuple[str, int, int]  # side, index and axis: one value may enter a node twice, in two roles


def site_key(site: Site) -> str:
    """A site as `Plan.kept` writes it: ``"conv1.weight:0"``."""
    return f"{site[0]}:{site[1]}"


@dataclass(frozen=True)
class Group:
    """Classes that touch the same sites: the interchangeable channels of one width of the network.

    Attributes:
        name: the first producing site, as `site_key` writes it.
        classes: class numbers, in the order of the channels; shape [n], n >= 2.
        sites: every (value, axis) that loses indices when a class is cut, with the number of indices a class.
        widths: indices a class on each site that produces the channels (one a filter; more where a channel is several filters).
    """

    name: str
    classes: tuple[int, ...]
    sites: Mapping[Site, int]
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Groups:
    """All that pruning knows of a graph's structure.

    Attributes:
        groups: what may be cut, in graph order.
        labels: class number of every index of every site.
        blocked: why channels of a producing site must stay, by `site_key`.
        couplings: coupling of every node in graph order (None where the operator refuses), with the ties that are in use.
        count: number of classes, blocked ones included.
        produced: number of channels that nodes produce, one a filter.
    """

    groups: tuple[Group, ...]
    labels: Mapping[Site, Indices]
    blocked: Mapping[str, str]
    couplings: tuple[tuple[Coupling, tuple[bool, ...]] | None, ...]
    count: int
    produced: int

    @cached_property
    def prunable(self) -> int:
        """How many of the `produced` channels may be cut."""
        return sum(len(group.classes) * sum(group.widths) for group in self.groups)


def find_groups(model: ir.Model) -> Groups:
    """The dependency groups of a canonical graph (static shapes, every value named).

    Raises ValueError where an operator's coupling names a run that its node does not have.
    """
    flood = _Flood(model.graph)
    return flood.groups()


class _Flood:
    """Collects vertices, edges and blocked vertices of one graph, then reads classes and groups off them."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.first: dict[Site, int] = {}
        self.size = 0
        self.edges: list[tuple[Indices, Indices]] = []
        self.blocks: list[tuple[Indices, str]] = []
        self.producing: dict[Site, Indices] = {}
        self.dims: dict[Site, int] = {}
        for value in _values(graph):
            for axis, dim in enumerate(static_shape(value)):
                site = (name_of(value), axis)
                self.first[site], self.dims[site] = self.size, dim
                self.size += dim

    def groups(self) -> Groups:
        self._block_boundary()
        couplings: list[Coupling | None] = []
        for node in self.graph:
            try:
                couplings.append(operator_of(node).couple(node))
            except Refused as refusal:
                couplings.append(None)
                for value in _ends(node):
                    self._block_value(value, f"{refusal.reason} ({node.name})")
        used = [self._flags(node, coupling) for node, coupling in zip(self.graph, couplings, strict=True)]
        self._choose_alternatives(couplings, used)
        for node, coupling, flags in zip(self.graph, couplings, used, strict=True):
            if coupling is not None:
                self._produce(node, coupling, flags)
        labels = self._labels()
        reasons = self._reasons(labels)
        final = tuple(None if c is None else (c, tuple(flag is True for flag in f)) for c, f in zip(couplings, used, strict=True))
        return Groups(
            groups=self._collect(labels, reasons),
            labels={site: labels[start : start + self.dims[site]] for site, start in self.first.items()},
            blocked=self._blocked(labels, reasons),
            couplings=final,
            count=int(labels.max(initial=-1)) + 1,
            produced=sum(ids.size for ids in self.producing.values()),
        )

    # --- vertices and edges ---

    def _block_boundary(self) -> None:
        for value in self.graph.inputs:
            self._block_value(value, f"the model's input {value.name} keeps its shape")
        for value in self.graph.outputs:
            self._block_value(value, f"the model's output {value.name} keeps its shape")
        for value in _values(self.graph):
            if any(user.graph is not self.graph for user, _ in value.uses()):
                self._block_value(value, f"{value.name} is used inside a branch or loop")

    def _block_value(self, value: ir.Value, reason: str) -> None:
        for axis, dim in enumerate(static_shape(value)):
            start = self.first[(name_of(value), axis)]
            self.blocks.append((np.arange(start, start + dim), reason))

    def _flags(self, node: ir.Node, coupling: Coupling | None) -> list[bool | None]:
        """Per tie: True in use, False out of use, None an alternative that is still open. Adds the edges of ties in use."""
        if coupling is None:
            return []
        seen: dict[_Port, list[tuple[int, Indices]]] = {}
        flags: list[bool | None] = [True] * len(coupling.ties)
        for number, tie in enumerate(coupling.ties):
            if len({run.count for run in tie}) != 1:
                raise ValueError(f"{node.op_type} {node.name}: the runs of tie {number} differ in count: {tie}")
            for run in tie:
                ids = self._vertices(node, run).ravel()
                for other, theirs in seen.setdefault(_port(run), []):
                    if other != number and np.intersect1d(ids, theirs).size:
                        flags[number] = flags[other] = None
                seen[_port(run)].append((number, ids))
        for flag, tie in zip(flags, coupling.ties, strict=True):
            if flag:
                self._tie(node, tie)
        for run in coupling.blocked:
            self.blocks.append((self._vertices(node, run).ravel(), _needs(node, self._site(node, run))))
        if None not in flags:
            self._block_rest(node, coupling, flags)
        return flags

    def _choose_alternatives(self, couplings: Sequence[Coupling | None], used: Sequence[list[bool | None]]) -> None:
        """Of ties that overlap, put the first into use whose channels nothing blocks; the channels of the others stay whole."""
        for node, coupling, flags in zip(self.graph, couplings, used, strict=True):
            if coupling is None or None not in flags:
                continue
            labels = self._labels()
            blocked = np.zeros(labels.max() + 1, bool)
            for ids, _ in self.blocks:
                blocked[labels[ids]] = True
            taken: dict[_Port, list[Indices]] = {}
            for number, tie in enumerate(coupling.ties):
                if flags[number] is not None:
                    continue
                runs = [(_port(run), self._vertices(node, run).ravel()) for run in tie]
                clash = any(np.intersect1d(ids, other).size for port, ids in runs for other in taken.get(port, ()))
                flags[number] = not clash and not any(blocked[labels[ids]].all() for _, ids in runs)
                if flags[number]:
                    self._tie(node, tie)
                    for port, ids in runs:
                        taken.setdefault(port, []).append(ids)
            self._block_rest(node, coupling, flags)

    def _tie(self, node: ir.Node, tie: tuple[Channels, ...]) -> None:
        runs = [self._vertices(node, run) for run in tie]
        heads = runs[0][:, 0]
        for run in runs:
            self.edges.append((np.repeat(heads, run.shape[1]), run.ravel()))

    def _block_rest(self, node: ir.Node, coupling: Coupling, flags: Sequence[bool | None]) -> None:
        """Block what no tie in use mentions: an operator that says nothing of an axis needs it whole."""
        covered: dict[_Port, list[Indices]] = {}
        for tie, flag in zip(coupling.ties, flags, strict=True):
            for run in tie if flag else ():
                covered.setdefault(_port(run), []).append(self._vertices(node, run).ravel())
        for side, values in (("in", node.inputs), ("out", node.outputs)):
            for index, value in enumerate(values):
                for axis, dim in enumerate(static_shape(value) if value is not None else ()):
                    site = (name_of(value), axis)  # type: ignore[arg-type]
                    tied = covered.get((side, index, axis), [np.empty(0, np.int64)])
                    rest = np.setdiff1d(np.arange(dim) + self.first[site], np.concatenate(tied))
                    if rest.size:
                        self.blocks.append((rest, _needs(node, site)))

    def _produce(self, node: ir.Node, coupling: Coupling, flags: Sequence[bool | None]) -> None:
        for number in coupling.free_outputs:
            if not flags[number]:
                continue
            tie = coupling.ties[number]
            # The filters stand for what is produced; a node without weights is counted by its output.
            run = next((run for run in tie if is_constant(end_of(node, run))), tie[0])
            site, ids = self._site(node, run), self._vertices(node, run).ravel()
            self.producing[site] = np.union1d(self.producing.get(site, np.empty(0, np.int64)), ids)

    def _site(self, node: ir.Node, run: Channels) -> Site:
        return (name_of(end_of(node, run)), run.axis)

    def _vertices(self, node: ir.Node, run: Channels) -> Indices:
        """Vertices of a run, shape [count, outer * repeat]."""
        site = self._site(node, run)
        length = run.outer * run.count * run.repeat
        if run.offset < 0 or min(run.outer, run.repeat) < 1 or run.offset + length > self.dims.get(site, 0):
            raise ValueError(f"{node.op_type} {node.name} has no such run of channels: {run}")
        ids = np.arange(length, dtype=np.int64).reshape(run.outer, run.count, run.repeat) + self.first[site] + run.offset
        return ids.transpose(1, 0, 2).reshape(run.count, run.outer * run.repeat)

    # --- classes and groups ---

    def _labels(self) -> Indices:
        """Class number of every vertex, numbered by first appearance."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        empty = [np.empty(0, np.int64)]
        heads = np.concatenate([pair[0] for pair in self.edges] or empty)
        tails = np.concatenate([pair[1] for pair in self.edges] or empty)
        matrix = coo_array((np.ones(heads.size, bool), (heads, tails)), shape=(self.size, self.size))
        _, raw = connected_components(matrix, directed=False)
        _, where, inverse = np.unique(raw, return_index=True, return_inverse=True)
        return np.asarray(np.argsort(np.argsort(where))[inverse], np.int64)

    def _reasons(self, labels: Indices) -> dict[int, str]:
        reasons: dict[int, str] = {}
        for ids, reason in self.blocks:
            for label in np.unique(labels[ids]).tolist():
                reasons.setdefault(label, reason)
        return reasons

    def _blocked(self, labels: Indices, reasons: Mapping[int, str]) -> dict[str, str]:
        found = {}
        for site, ids in self.producing.items():
            why = [reasons[label] for label in labels[ids].tolist() if label in reasons]
            if why:
                found[site_key(site)] = why[0]
        return found

    def _collect(self, labels: Indices, reasons: Mapping[int, str]) -> tuple[Group, ...]:
        wanted = np.zeros(labels.max(initial=-1) + 1, bool)
        for ids in self.producing.values():
            wanted[labels[ids]] = True
        wanted[list(reasons)] = False
        touched: dict[int, list[tuple[Site, int]]] = {label: [] for label in np.flatnonzero(wanted).tolist()}
        for site, start in self.first.items():
            members, counts = np.unique(labels[start : start + self.dims[site]], return_counts=True)
            keep = wanted[members]
            for label, count in zip(members[keep].tolist(), counts[keep].tolist(), strict=True):
                touched[label].append((site, count))
        gathered: dict[tuple[tuple[Site, int], ...], list[int]] = {}
        for label, sites in touched.items():
            gathered.setdefault(tuple(sites), []).append(label)
        groups = []
        for pairs, classes in gathered.items():
            if len(classes) < 2:
                continue
            touches = dict(pairs)
            producers = [site for site in self.producing if site in touches]
            widths = tuple(touches[site] for site in producers)
            groups.append(Group(site_key(producers[0]), tuple(sorted(classes)), touches, widths))
        return tuple(groups)


def end_of(node: ir.Node, run: Channels) -> ir.Value:
    """The value that a run of a node's coupling lies on. Raises ValueError where the node has none there."""
    values: Sequence[ir.Value | None] = node.inputs if run.side == "in" else node.outputs
    value = values[run.index] if 0 <= run.index < len(values) else None
    if value is None:
        raise ValueError(f"{node.op_type} {node.name} has no value for the run {run}")
    return value


def _port(run: Channels) -> _Port:
    return (run.side, run.index, run.axis)


def _ends(node: ir.Node) -> list[ir.Value]:
    return [value for value in (*node.inputs, *node.outputs) if value is not None]


def _needs(node: ir.Node, site: Site) -> str:
    return f"{node.op_type} {node.name} needs axis {site[1]} of {site[0]} whole"


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    seen: set[int] = set()
    candidates = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for value in candidates:
        if id(value) not in seen:
            seen.add(id(value))
            yield value
