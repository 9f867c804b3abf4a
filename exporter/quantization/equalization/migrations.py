"""Carry out migrations: scales taken out of values where they are made and put back where they are read (`channels`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from diagnostics import ModelError
from exporter.graph.edit import replace_constant
from exporter.graph.rewriter import Names
from exporter.graph.values import FLOAT, constant, name_of, rank
from exporter.quantization.equalization.channels import Absorber, Group, Run, channel_groups
from exporter.quantization.equalization.restated import Change, Rewritten

__all__ = ["migrate"]

Array = np.ndarray[Any, Any]
_REASON = "puts back in float what equalization took out of a channel"


def migrate(model: ir.Model, scales: Mapping[str, Sequence[float]]) -> Rewritten:
    """A copy of a legalized graph in which the values of each group are divided by its scale, by the group's name.

    Raises ModelError EW-Q002 where the graph has no such group.
    """
    if not scales:
        return Rewritten(model)
    done = Rewritten(model.clone())
    names = Names(done.model.graph)
    groups = {group.name: group for group in channel_groups(done.model.graph)}
    for name, numbers in scales.items():
        group = groups.get(name)
        if group is None or group.count != len(numbers):
            raise ModelError(
                "EW-Q002",
                f"the plan migrates a scale of {len(numbers)} channels at {name}, where the graph has none such",
                where=name,
                fix="plan this model again",
            )
        _apply(group, np.asarray(numbers, np.float64), names, done)
    return done


def _apply(group: Group, scale: Array, names: Names, done: Rewritten) -> None:
    for absorber in group.divided:
        _absorb(absorber, 1 / scale)
    for absorber in group.multiplied:
        _absorb(absorber, scale)
    readers = [(node, index, node.inputs[index]) for node, index in group.read]
    for value, run in group.runs.items():
        name = name_of(value)
        floats = [(node, index) for node, index, read in readers if read is value]
        if value in group.made:
            inside = [use for use in value.uses() if (use.node, use.idx) not in floats]
            made = _multiply(value, run.spread(1 / scale, rank(value)), names)
            for node, index in inside:
                node.replace_input_with(index, made)
            done.changed[name_of(made)] = _change(name, scale, run)
            continue
        done.changed[name] = _change(name, scale, run)
        if floats:
            made = _multiply(value, run.spread(scale, rank(value)), names)
            for node, index in floats:
                node.replace_input_with(index, made)
            done.copies[name_of(made)] = name


def _change(before: str, scale: Array, run: Run) -> Change:
    if run.axis != 1:
        return Change(before, None)
    factor = run.spread(scale, 2)
    return Change(before, lambda extremes: extremes / factor)


def _absorb(absorber: Absorber, scale: Array) -> None:
    array = constant(absorber.node.inputs[absorber.index])
    assert array is not None
    replace_constant(absorber.node, absorber.index, (array * absorber.factor(scale)).astype(np.float32))


def _multiply(value: ir.Value, factor: Array, names: Names) -> ir.Value:
    """A product with `value` behind its producer, in float."""
    producer = value.producer()
    assert producer is not None
    graph = producer.graph
    assert isinstance(graph, ir.Graph)
    name = names.fresh(f"{name_of(value)}/scaled")
    array = factor.astype(np.float32)
    constant_name = names.fresh(f"{name_of(value)}/scale")
    scale = ir.val(constant_name, const_value=ir.tensor(np.ascontiguousarray(array), name=constant_name))
    graph.register_initializer(scale)
    result = ir.Value(name=name, shape=value.shape, type=value.type)
    node = ir.node("Mul", [value, scale], outputs=[result], name=name)
    node.metadata_props.update({FLOAT: _REASON})
    graph.insert_after(producer, node)
    return result
