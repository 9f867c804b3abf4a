"""Encodings that the source brought along, settled on the values of the legal graph: nothing is calibrated, nothing chosen.

::

    x -> Conv -> Relu -> Q -> D -> MaxPool -> D' ...          x -> Conv -> Relu [encoded] -> MaxPool [encoded]

A node runs in integers where the source encodes all that it reads and writes and its kernel can have these very encodings; every other
node runs in float, between DEQUANTIZE and QUANTIZE, as the source says it. A rounding that belongs to no integer node is an Identity of its own,
which writers make a QUANTIZE.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import common

from exporter.graph.encoded import BOUNDARY, constant_encoding, encoding_of, in_int8, pair_encoding, set_encoding
from exporter.graph.qdq_form import moves
from exporter.graph.rewriter import Names
from exporter.graph.values import FLOAT, KEPT, activation_nodes, consumers, fused_activation, fused_into, is_constant, name_of
from exporter.ops.base import OutputRule, QuantRule, Refused, Role, operator_of
from exporter.quantization.encoder import is_float
from exporter.quantization.plan import Encoding
from exporter.quantization.planner import check_form
from exporter.quantization.ranges import fixed_encoding

__all__ = ["brings_encodings", "computes_in_integers", "integer_rule", "settle"]


def brings_encodings(graph: ir.Graph) -> bool:
    """Whether the source encoded a computed value of this settled graph."""
    return any(encoding_of(value) is not None for value in (*graph.inputs, *(v for node in graph for v in node.outputs)))


def computes_in_integers(graph: ir.Graph) -> bool:
    """Whether a node of this settled graph computes in integers; rounding and moving alone is arithmetic that floats do exactly as well."""
    nodes = [node for node, _ in activation_nodes(graph) if not moves(node) and any(is_float(value) for value in node.outputs)]
    return any(_in_integers(node) for node in nodes)


def settle(model: ir.Model) -> ir.Model:
    """Make encodings of the marked pairs of a legal graph, in place; gives `model` back (see `graph.qdq_form`)."""
    graph = model.graph
    if not any(KEPT in node.metadata_props for node in graph):
        return model
    names = Names(graph)
    _open_inputs(graph)
    for node in list(graph):
        if KEPT in node.metadata_props and node.op_type == "QuantizeLinear":
            _to_identity(graph, node, names)
    _carry_forward(graph)
    _carry_back(graph, names)
    for node in list(graph):
        if _rounds(node):
            _merge(graph, node)
    common.RemoveUnusedNodesPass()(model)  # and scales and zero points, whose names a writer gives to its own
    return model


# --- from pairs to encoded values -------------------------------------------------------------------------------------


def _open_inputs(graph: ir.Graph) -> None:
    """A graph input of integers becomes the real numbers that they stand for, and keeps its dtype at the boundary."""
    for value in graph.inputs:
        readers = consumers(value)
        if not readers or any(KEPT not in node.metadata_props or node.op_type != "DequantizeLinear" for node in readers):
            continue
        encoding = pair_encoding(readers[0])
        assert encoding is not None
        value.metadata_props[BOUNDARY] = encoding.dtype
        value.type = ir.TensorType(ir.DataType.FLOAT)  # a new type: a clone shares its values' types with its original
        set_encoding(value, in_int8(encoding))
        for node in readers:
            _hand_on(graph, node, value)


def _hand_on(graph: ir.Graph, dequantize: ir.Node, value: ir.Value) -> None:
    """Let the readers of a DequantizeLinear read `value`; where it is an output of the graph, by way of an Identity of that name."""
    output = dequantize.outputs[0]
    if output.is_graph_output():
        copy = ir.node("Identity", [value], name=f"{dequantize.name}/Identity")
        copy.outputs[0].shape, copy.outputs[0].type = output.shape, output.type
        graph.insert_before(dequantize, copy)
        title, output.name = output.name, None
        output.replace_all_uses_with(copy.outputs[0], replace_graph_outputs=True)
        copy.outputs[0].name = title
    else:
        output.replace_all_uses_with(value)
    graph.remove(dequantize, safe=True)


def _to_identity(graph: ir.Graph, node: ir.Node, names: Names) -> None:
    """``Q -> D`` becomes an Identity with an encoded output, which the readers of D read."""
    encoding, integers, real = pair_encoding(node), node.outputs[0], node.inputs[0]
    assert encoding is not None
    assert real is not None
    same = ir.node("Identity", [real], name=names.fresh(f"{node.name}/rounded"))
    rounded = same.outputs[0]
    rounded.shape, rounded.type = real.shape, ir.TensorType(ir.DataType.FLOAT)
    set_encoding(rounded, in_int8(encoding))
    graph.insert_before(node, same)
    readers = [reader for reader, _ in integers.uses()]
    outputs = [reader.outputs[0] for reader in readers if reader.outputs[0].is_graph_output()]
    if integers.is_graph_output():
        title = name_of(integers)
        integers.name, rounded.name = names.fresh(f"{title}/integers"), title
        rounded.metadata_props[BOUNDARY] = encoding.dtype
        graph.outputs[list(graph.outputs).index(integers)] = rounded
    elif len(outputs) == 1:
        title = name_of(outputs[0])
        outputs[0].name, rounded.name = names.fresh(f"{title}/integers"), title
        graph.outputs[list(graph.outputs).index(outputs[0])] = rounded
    else:
        rounded.name = names.fresh(f"{name_of(real)}/rounded")
    for reader in readers:
        _hand_on(graph, reader, rounded)
    graph.remove(node, safe=True)


def _carry_forward(graph: ir.Graph) -> None:
    """What moves encoded numbers gives encoded numbers."""
    for node in graph:
        given = {encoding_of(value) or constant_encoding(value, None) for value in _moved(node)}
        encoding = next(iter(given)) if len(given) == 1 else None
        if encoding is None or not _takes_integers(node):
            continue
        for value in node.outputs:
            if is_float_output(value) and encoding_of(value) is None:
                set_encoding(value, encoding)


def _carry_back(graph: ir.Graph, names: Names) -> None:
    """``Q(move(x))`` is ``move(Q(x))``: a rounding goes to the kernel whose result is moved."""
    for node in reversed(list(graph)):
        moved = _moved(node)
        behind = _rounding(node.outputs[0]) if len(moved) == 1 and len(node.outputs) == 1 else None
        x = moved[0] if behind is not None else None
        if x is None or behind is None or encoding_of(x) is not None or is_constant(x) or x.producer() is None:
            continue
        encoding = encoding_of(behind.outputs[0])
        if encoding is None or len(x.uses()) != 1 or x.is_graph_output() or not _takes_integers(node):
            continue
        same = ir.node("Identity", [x], name=names.fresh(f"{name_of(x)}/Identity"))
        rounded = same.outputs[0]
        rounded.name, rounded.shape, rounded.type = names.fresh(f"{name_of(x)}/rounded"), x.shape, x.type
        set_encoding(rounded, encoding)
        graph.insert_before(node, same)
        node.replace_input_with(node.inputs.index(x), rounded)
        _absorb(graph, behind)


def _merge(graph: ir.Graph, identity: ir.Node) -> None:
    """A value whose only reader rounds it is that rounded value, where its kernel rounds or all readers of the rounded one do."""
    x, encoding = identity.inputs[0], encoding_of(identity.outputs[0])
    assert x is not None
    if is_constant(x) or encoding_of(x) not in (None, encoding):
        return
    if encoding_of(x) == encoding:
        if x.producer() is None and identity.outputs[0].is_graph_output():
            return  # only a node can carry the second name
        if BOUNDARY in identity.outputs[0].metadata_props or x.is_graph_output():
            return
        if identity.outputs[0].is_graph_output() and len(x.uses()) > 1 and BOUNDARY in x.metadata_props:
            return
        _absorb(graph, identity)
        return
    if len(x.uses()) != 1 or x.is_graph_output():
        return
    owner = x.producer()
    owner = (fused_into(owner) or owner) if owner is not None else None
    alone = owner is not None and _in_integers(owner)
    readers = consumers(identity.outputs[0])
    if owner is None and identity.outputs[0].is_graph_output():
        return
    if alone or (readers and not identity.outputs[0].is_graph_output() and all(_in_integers(reader) for reader in readers)):
        _absorb(graph, identity)


def _absorb(graph: ir.Graph, identity: ir.Node) -> None:
    """Remove an Identity: its input takes over encoding, readers and, of a graph output, name."""
    x, y = identity.inputs[0], identity.outputs[0]
    assert x is not None
    x.metadata_props.update(y.metadata_props)
    title, output = y.name, y.is_graph_output()
    y.replace_all_uses_with(x, replace_graph_outputs=True)
    y.name = None
    if output:
        x.name = title
    graph.remove(identity, safe=True)


# --- what runs in integers --------------------------------------------------------------------------------------------


def integer_rule(node: ir.Node) -> QuantRule:
    """The rule of a node that runs in integers as the source says. Raises Refused with the reason why it runs in float."""
    if FLOAT in node.metadata_props:
        raise Refused(node, node.metadata_props[FLOAT])
    rule = operator_of(node).quantize(node)
    check_form(node, rule)
    written = [_written(node, value, given) for value, given in outputs_of(node, rule)]
    if _rounds(node):
        return rule
    dtype = written[0].dtype if written else ""
    alike = written[0] if rule.shared and written else None
    if alike is not None and any(encoding != alike for encoding in written):
        raise Refused(node, f"the source encodes the outputs of {node.op_type} differently, its kernel alike")
    for index, value in enumerate(node.inputs):
        role = rule.inputs[index].role if value is not None else Role.PARAMETER
        if value is None or not is_float(value) or role in (Role.PARAMETER, Role.BIAS):
            continue
        if role is Role.WEIGHT:
            _check_weight(node, value, rule.inputs[index].axis)
            continue
        read = in_int8(given) if (given := constant_encoding(value, None)) is not None else encoding_of(value)
        if read is None or (is_constant(value) and given is None):
            raise Refused(node, f"the source has {name_of(value)} in float")
        dtype = dtype or read.dtype  # a node that writes indices has no encoded output
        if read.dtype != dtype:
            raise Refused(node, f"the source reads {name_of(value)} in {read.dtype} where it writes {dtype}; no kernel does")
        if alike is not None and read != alike and not moves(node):
            raise Refused(
                node,
                f"the source reads {name_of(value)} in another encoding than it writes, which the kernel of {node.op_type} cannot",
            )
    if any(encoding.dtype != dtype for encoding in written) or not operator_of(node).runs_in(node, dtype):
        raise Refused(node, f"{node.op_type} has no kernel in {dtype or 'integers'}")
    return rule


def outputs_of(node: ir.Node, rule: QuantRule) -> Iterator[tuple[ir.Value, OutputRule]]:
    """The real outputs that a node's kernel writes (the fused activation's where there is one), with their rules."""
    behind = fused_activation(node)
    for index, (value, given) in enumerate(zip(node.outputs, rule.outputs, strict=False)):
        written = behind.outputs[0] if behind is not None and index == 0 else value
        if is_float_output(written):
            yield written, given


def is_float_output(value: ir.Value) -> bool:
    return bool(value.name) and is_float(value)


def _written(node: ir.Node, value: ir.Value, given: OutputRule) -> Encoding:
    behind = _rounding(value)
    encoding = encoding_of(value) or (encoding_of(behind.outputs[0]) if behind is not None else None)
    if encoding is None:
        raise Refused(node, f"the source has {name_of(value)} in float")
    if given.kind == "fixed" and encoding != fixed_encoding(given.scale, given.zero_point, encoding.dtype):
        raise Refused(node, f"the source encodes the output of {node.op_type} otherwise than its integer kernel does")
    return encoding


def _check_weight(node: ir.Node, value: ir.Value, axis: int | None) -> None:
    encoding = constant_encoding(value, axis)
    if encoding is None or encoding.dtype not in ("int8", "uint8"):
        raise Refused(
            node,
            f"the source has the weight {name_of(value)} in float, or not in 8 bits along its channels",
        )
    if any(in_int8(encoding).zero_point):
        raise Refused(node, f"the weight {name_of(value)} has a zero point, which no integer kernel of {node.op_type} takes")


def _rounding(value: ir.Value) -> ir.Node | None:
    """The Identity that rounds a value, where it is the only reader."""
    users = consumers(value)
    return users[0] if len(value.uses()) == 1 and not value.is_graph_output() and _rounds(users[0]) else None


def _rounds(node: ir.Node) -> bool:
    """Whether a node is the Identity of a rounding: it reads its input, whatever that is, in the encoding of its output."""
    return node.op_type == "Identity" and encoding_of(node.outputs[0]) is not None


def _in_integers(node: ir.Node) -> bool:
    try:
        integer_rule(fused_into(node) or node)
    except Refused:
        return False
    return True


def _takes_integers(node: ir.Node) -> bool:
    try:
        check_form(node, operator_of(node).quantize(node))
    except Refused:
        return False
    return FLOAT not in node.metadata_props


def _moved(node: ir.Node) -> list[ir.Value]:
    """The real inputs of a node that moves data; none of another node, nor of an Identity that rounds."""
    if not moves(node) or _rounds(node):
        return []
    found = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return [value for value in found if value is not None and is_float(value)] if all(map(is_float, found)) else []
