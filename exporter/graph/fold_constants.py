"""Everything that can be computed before a sample is seen is computed now: weights' own arithmetic, and arithmetic of shapes.

::

    x -> Shape -> Gather(0) -> Concat(-1) -> Reshape(x, .)          x -> Reshape(x, [1, -1])
    Mul(rate: int64, 0) -> Cast -> Add(y, .)                        Add(y, 0.0)

Requires: static shapes. Ensures: no node has constants as its only inputs, up to the size limits and to operators that draw random numbers;
no integers are multiplied by zeros; a graph output that is a constant is an initializer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.graph.adopt_constants import adopt_constants
from exporter.graph.encoded import pair_encoding, set_encoding
from exporter.graph.infer_shapes import infer_shapes
from exporter.graph.values import constant, name_of, static_shape

__all__ = ["evaluate", "fold_constants"]

_LIMIT: Final = 1 << 24  # elements of a folded tensor: a whole embedding may be folded, a ConstantOfShape cannot fill the memory
_ROUNDS: Final = 2  # of folding and rewriting: each makes work for the other
_SMALL: Final = 1 << 12  # elements of what is computed to decide a condition
# onnxscript's rewrite rules that keep the numbers. Those that drop ``x + 0`` and ``x * 1`` are not among them: they take any constant below
# 1e-8 for 0 and any within 1e-5 of 1 for 1, so that the offset of a logarithm disappears; `eliminate_noops` asks for equality.
_RULES: Final = (
    "two_reshapes_matmul_reshape",
    "one_reshape_matmul_reshape",
    "cast_constant_of_shape",
    "cast_constant_of_shape_without_value",
    "collapse_slice",
    "collapse_slice2",
    "materialize_reshape_shape",
    "min_min",
    "max_max",
    "min_max",
    "max_min",
    "successive_clip_relu",
    "successive_relu_clip",
    "successive_relu",
    "successive_clip",
    "cast_cast",
    "no_op_cast",
    "no_op_expand",
    "flatten_to_reshape",
    "reshape_reshape",
    "slice_split",
    "no_op_transpose",
    "transpose_transpose",
    "unsqueeze_unsqueeze",
    "squeeze_reshape_1d",
    "no_op_dynamic_scatter_nd",
    "no_op_static_scatter_nd",
    "normalize_pad_format_conv",
    "normalize_pad_format_conv_integer",
    "fuse_pad_into_conv",
    "fuse_pad_into_conv_integer",
    "fuse_batchnorm_into_conv",
    "fuse_batchnorm_into_conv_transpose",
    "fuse_batchnorm_into_gemm",
    "remove_optional_bias_from_conv",
    "remove_optional_bias_from_conv_transpose",
    "remove_optional_bias_from_qlinear_conv",
    "remove_optional_bias_from_gemm",
)
_RANDOM: Final = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"})


def fold_constants(model: ir.Model) -> None:
    """Fold in place: onnxscript's folding and rules, which also simplify what shapes alone decide, then what they leave.

    An If that chooses by a shape has no rank before it is decided, and what follows it has none: shapes are inferred and the graph folded
    again until no further If is decided.
    """
    _fold_once(model)
    before, nodes = -1, _nodes_if_open(model)
    while nodes != before:
        infer_shapes(model, strict=False)
        _fold_once(model)
        before, nodes = nodes, _nodes_if_open(model)


def _nodes_if_open(model: ir.Model) -> int:
    """How many nodes the graph has, where an If is among them; -1 where none is."""
    kinds = [node.op_type for node in model.graph.all_nodes()]
    return len(kinds) if "If" in kinds else -1


def _fold_once(model: ir.Model) -> None:
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules import common as rules

    exact = rewriter.RewritePass([getattr(rules, f"{name}_rule") for name in _RULES if hasattr(rules, f"{name}_rule")])
    common.InlinePass()(model)
    for _ in range(_ROUNDS):
        folded = optimizer.fold_constants_ir(
            model, onnx_shape_inference=True, input_size_limit=_LIMIT, output_size_limit=_LIMIT
        ).modified
        rewritten = exact(model).modified
        adopt_constants(model.graph)
        optimizer.remove_unused_nodes(model)
        optimizer.remove_unused_functions(model)
        common.RemoveUnusedOpsetsPass()(model)
        if not folded and not rewritten:
            break
    for tidy in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    ):
        tidy(model)
    for node in list(model.graph):
        if _foldable(node):
            _fold(model, node)


def evaluate(
    value: ir.Value, opset: int, known: dict[ir.Value, np.ndarray[Any, Any] | None] | None = None
) -> np.ndarray[Any, Any] | None:
    """What a value is where it follows from constants alone, before the graph is folded; None where it does not.

    `known` remembers answers between calls.
    """
    known = {} if known is None else known
    if value not in known:
        known[value] = constant(value)
        node = value.producer()
        if node is not None and known[value] is None and not _is_opaque(node) and node.outputs.index(value) == 0:
            feed = {used: evaluate(used, opset, known) for used in dict.fromkeys(node.inputs) if used is not None}
            if all(array is not None and array.size <= _SMALL for array in feed.values()):
                known[value] = _first_output(node, opset, feed)
    return known[value]


def _first_output(node: ir.Node, opset: int, feed: Mapping[ir.Value, np.ndarray[Any, Any] | None]) -> np.ndarray[Any, Any] | None:
    from onnx.reference import ReferenceEvaluator

    names = {value: f"v{index}" for index, value in enumerate(feed)}
    proto = ir.serde.serialize_node(node)
    del proto.input[:], proto.output[:]
    proto.input.extend("" if value is None else names[value] for value in node.inputs)
    proto.output.append("result")
    inputs = [
        onnx.helper.make_tensor_value_info(names[value], onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for value, array in feed.items()
        if array is not None
    ]
    graph = onnx.helper.make_graph([proto], "one", inputs, [onnx.helper.make_empty_tensor_value_info("result")])
    single = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        (found,) = ReferenceEvaluator(single).run(None, {names[value]: array for value, array in feed.items()})
    except Exception:  # whatever an implementation in Python raises for a form that it lacks
        return None
    return found if isinstance(found, np.ndarray) else None


def _is_opaque(node: ir.Node) -> bool:
    """Whether a node's result does not follow from its inputs' values by itself: it draws random numbers, or runs other graphs."""
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return bool(node.domain) or node.op_type in _RANDOM or any(attribute.type in graphs for attribute in node.attributes.values())


def _foldable(node: ir.Node) -> bool:
    """A node of the standard whose result is known and of a known and moderate size: its inputs are, or one of them makes it zeros."""
    known = not any(constant(value) is None for value in node.inputs if value is not None)
    if _is_opaque(node) or not (known or _is_zero(node)):
        return False
    try:
        return all(prod(static_shape(value)) <= _LIMIT for value in node.outputs if value.name)
    except ValueError:
        return False


def _is_zero(node: ir.Node) -> bool:
    """Whether integers are multiplied by zeros. Floats may be infinite or NaN, which zero times is NaN."""
    dtype = node.outputs[0].dtype
    if node.op_type != "Mul" or dtype is None or not dtype.is_integer():
        return False
    return any((array := constant(value)) is not None and not array.any() for value in node.inputs)


def _fold(model: ir.Model, node: ir.Node) -> None:
    """Let the node's outputs be initializers of the same names; a node that the reference implementation cannot compute stays."""
    outputs = [value for value in node.outputs if value.name]
    arrays = _zeros(node) if _is_zero(node) else _computed(node, model.opset_imports.get("", 0))
    if arrays is None:
        return
    encoding = pair_encoding(node) if node.op_type == "DequantizeLinear" else None
    graph = model.graph
    for old, array in zip(outputs, arrays, strict=True):
        name = name_of(old)
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        new = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        if encoding is not None:
            set_encoding(new, encoding)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = None
        graph.register_initializer(new)
    graph.remove(node, safe=True)


def _zeros(node: ir.Node) -> Sequence[np.ndarray[Any, Any]]:
    return [np.zeros(static_shape(node.outputs[0]), node.outputs[0].dtype.numpy())]  # type: ignore[union-attr]


def _computed(node: ir.Node, opset: int) -> Sequence[np.ndarray[Any, Any]] | None:
    from onnx.reference import ReferenceEvaluator

    proto = ir.serde.serialize_node(node)
    feed = {name_of(value): constant(value) for value in node.inputs if value is not None}
    inputs = [ir.serde.serialize_value(value) for value in dict.fromkeys(node.inputs) if value is not None]
    outputs = [ir.serde.serialize_value(value) for value in node.outputs if value.name]
    single = onnx.helper.make_model(
        onnx.helper.make_graph([proto], "one", inputs, outputs), opset_imports=[onnx.helper.make_opsetid("", opset)]
    )
    try:
        found = ReferenceEvaluator(single).run(None, feed)
    except Exception:  # whatever an implementation in Python raises for a form that it lacks
        return None
    arrays = [np.asarray(array) for array in found]
    fits = all(
        value.dtype is not None and array.dtype == value.dtype.numpy()
        for value, array in zip([value for value in node.outputs if value.name], arrays, strict=True)
    )
    return arrays if fits else None
