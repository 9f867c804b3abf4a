"""Puts small int8 networks beside their integer reference: random data, LiteRT's reference kernels with every tensor kept."""

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from op_bench import TARGET

from exporter.backends.tflite.layout import assign
from exporter.backends.tflite.writer import write_tflite
from exporter.graph.legalize import legalize
from exporter.graph.rewriter import NOTHING
from exporter.graph.run import FloatRunner, observed_values
from exporter.ops.base import operator_of
from exporter.quantization.apply import node_name, runs_in_integers
from exporter.quantization.plan import Plan
from exporter.quantization.planner import make_plan
from exporter.quantization.refinement.correction import ensure_biases
from exporter.verification.parity import Parity
from exporter.verification.reference import Comparison
from tools.operator_families import feeds

__all__ = ["OPTIMIZED", "compared", "feeds", "planned", "tensors_of"]

# What the reference resolver lacks is run by the optimized builtin.
OPTIMIZED = {"ELU"}


def planned(model: ir.Model, samples, choose=None, avoid=NOTHING) -> tuple[ir.Model, Plan]:
    """The legalized graph and its int8 plan, calibrated by the extremes of the samples.

    choose: which of the nodes that have an int16 kernel run in int16x8; avoid: builtins that the graph is written without.
    """
    legal = ensure_biases(legalize(model, "tflite", avoid=avoid))
    runner = FloatRunner(legal, observed_values(legal))
    seen = [runner(sample) for sample in samples]
    ranges = {
        name: SimpleNamespace(low=min(float(run[name].min()) for run in seen), high=max(float(run[name].max()) for run in seen))
        for name in seen[0]
    }
    stats = SimpleNamespace(values=ranges)
    plan = make_plan(legal, stats, TARGET)
    able = [node for node in legal.graph if runs_in_integers(node, plan) and operator_of(node).runs_in(node, "int16")]
    wide = {node_name(node): "chosen" for node in able if choose is not None and choose(node)}
    return legal, assign(legal, make_plan(legal, stats, TARGET, wide=wide) if wide else plan, "keep")


def compared(model: ir.Model, samples, runs=None, choose=None) -> Parity:
    """The artifact calibrated on `samples` beside the reference, on `runs` (default: the samples, twice as large: some of it saturates)."""
    graph, plan = planned(model, samples, choose)
    artifact = write_tflite(graph, plan)
    resolver = (
        OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        if OPTIMIZED & {name for name, _ in artifact.operators}
        else OpResolverType.BUILTIN_REF
    )
    interpreter = Interpreter(
        model_content=artifact.content, experimental_op_resolver_type=resolver, experimental_preserve_all_tensors=True
    )
    interpreter.allocate_tensors()
    comparison = Comparison(graph, plan)
    for sample in runs or [*samples, *({name: 2 * array for name, array in sample.items()} for sample in samples)]:
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], sample[detail["name"]])
        interpreter.invoke()
        comparison.update(tensors_of(interpreter))
    return comparison.result()


def tensors_of(interpreter: Interpreter) -> dict[str, np.ndarray]:
    """Every tensor of the last run, by "index:name"."""
    found = {}
    for detail in interpreter.get_tensor_details():
        if np.dtype(detail["dtype"]).kind in "biuf":
            try:
                found[f"{detail['index']}:{detail['name']}"] = interpreter.get_tensor(detail["index"])
            except ValueError:  # a scratch tensor of a kernel
                continue
    return found
