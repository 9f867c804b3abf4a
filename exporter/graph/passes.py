"""The passes in order: any ONNX graph to the canonical one, and the checker that runs after every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnx_ir as ir

from exporter.graph.check import check
from exporter.graph.close_bodies import body_models
from exporter.graph.control_flow import MOST_NODES_WITHOUT_LOOPS, inline_control_flow
from exporter.graph.dead_code import remove_dead_code
from exporter.graph.eliminate_noops import eliminate_noops
from exporter.graph.expand_functions import expand_functions
from exporter.graph.expand_qoperators import expand_qoperators
from exporter.graph.explicit_windows import explicit_windows, fold_padding
from exporter.graph.fix_shapes import fix_shapes
from exporter.graph.fold_affine import fold_affine
from exporter.graph.fold_constants import fold_constants
from exporter.graph.infer_shapes import infer_shapes, require_static
from exporter.graph.legalize import legalize as rewrite
from exporter.graph.lower_batchnorm import lower_batchnorm
from exporter.graph.name_everything import name_everything
from exporter.graph.normalizations import mark_normalizations
from exporter.graph.one_float import one_float
from exporter.graph.opset import canonical_opset
from exporter.graph.pool_first import pool_first
from exporter.graph.raise_scales import raise_scales
from exporter.graph.recognize import recognize
from exporter.graph.rewriter import NOTHING
from exporter.graph.sink_scales import sink_scales
from exporter.ops.base import all_operators
from targets.floor import Floor
from targets.releases.onnxruntime import format_for

__all__ = ["canonicalize", "check", "legalize"]


def canonicalize(model: ir.Model, shapes: Mapping[str, Sequence[int]] | None = None) -> ir.Model:
    """The canonical form of `model`, which is not changed: see `check` for what it ensures.

    `shapes` fixes dynamic inputs. Names of graph inputs and outputs stay. A canonical model comes out as it went in.
    Raises ModelError EW-M003 (opset), EW-M006 (dynamic), EW-M007 (the graph contradicts itself), EW-M009 (unknown operator).
    """
    model = model.clone()
    fix_shapes(model, shapes)
    model = canonical_opset(model)
    expand_qoperators(model)
    name_everything(model)  # by operator, before other tools name what has none
    infer_shapes(model)
    fold_constants(model)
    infer_shapes(model)
    inline_control_flow(model, canonicalize)
    require_static(model)
    eliminate_noops(model)
    explicit_windows(model)
    fold_padding(model)
    recognize(model)
    lower_batchnorm(model)
    while raise_scales(model) + fold_affine(model) + sink_scales(model) + pool_first(model):
        pass
    eliminate_noops(model)
    remove_dead_code(model)
    mark_normalizations(model)
    name_everything(model)
    check(model, "canonicalize")
    return model


def legalize(
    model: ir.Model, runtime: str, floor: Floor | None = None, loops: bool = True, avoid: Mapping[str, int] = NOTHING
) -> ir.Model:
    """A copy of the canonical `model` in the operators and forms of `runtime` ("tflite" or "onnx"); see `exporter.graph.legalize`.

    For TFLite, standard operators without rules of their own become their definition by others first, and all floats float32.
    For ONNX, those that came after the opset of `floor` do. Without `loops` (a device that has no float, in which their bodies run) many
    steps are unrolled as well, as far as that goes. Raises what `canonicalize` and the rewriting raise.
    """
    if not loops:
        straight = model.clone()
        if inline_control_flow(straight, canonicalize, MOST_NODES_WITHOUT_LOOPS):
            model = canonicalize(straight)
    if runtime == "tflite":
        known = {op_type for domain, op_type in all_operators() if not domain}
        expanded = model.clone()
        changed = expand_functions(expanded, keep=known.__contains__)
        if one_float(expanded) or changed:
            model = canonicalize(expanded)
    elif floor is not None:
        opset = format_for(floor).opset
        expanded = model.clone()
        if expand_functions(expanded, keep=lambda op_type: onnx.defs.has(op_type, opset)):
            model = canonicalize(expanded)
    model = rewrite(model, runtime, floor, loops, avoid)
    if runtime == "tflite":
        for node in model.graph:
            for inner in body_models(model, node):
                node.attributes["body"] = ir.AttrGraph("body", legalize(inner, runtime, floor, loops, avoid).graph)
    return model
