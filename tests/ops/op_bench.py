"""Puts one operator (or a few) on the bench: small canonical graphs, the reference in onnxruntime, and the real TFLite runtime."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir

from exporter.backends.tflite.layout import to_channels_first, to_channels_last
from exporter.backends.tflite.writer import write_tflite
from exporter.graph.legalize import legalize
from exporter.graph.run import FloatRunner, observed_values
from exporter.graph.values import activation_nodes, is_constant, rank
from exporter.ops.base import Port, operator_of
from exporter.quantization.apply import node_name
from exporter.quantization.planner import float_plan, make_plan
from targets.precision import choose_precision
from targets.schema import Artifact, Target, Unit, Verification
from tools.operator_families import graph, single  # noqa: F401 - told to all tests of operators

TARGET = Target(
    name="bench",
    title="the bench",
    artifact=Artifact(format="tflite", runtime="litert", precision="int8", precisions=("int16x8",)),
    units=(Unit(name="cpu", kind="cpu", dtypes=("int8", "int16", "float32")),),
    verification=Verification(runtimes=("litert-ref",), level="run"),
)


def node_of(model: ir.Model) -> ir.Node:
    (node,) = model.graph
    return node


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def sample(model, seed=0, low=-4.0, high=4.0):
    """Float inputs for every input of the graph, spread evenly."""
    generator = np.random.default_rng(seed)
    return {value.name: generator.uniform(low, high, list(value.shape)).astype(np.float32) for value in model.graph.inputs}


def torch_outputs(model, feed):
    """Outputs of the one node's torch facet, as arrays."""
    import torch

    node = node_of(model)
    inputs = [
        None
        if value is None
        else torch.from_numpy(np.array(feed[value.name] if value.name in feed else value.const_value.numpy()))
        for value in node.inputs
    ]
    return [np.asarray(tensor) for tensor in operator_of(node).torch(node, inputs)]


def assert_torch_computes_it(model, feed=None, atol=1e-6):
    """The torch facet gives what onnxruntime gives, in the same shapes."""
    feed = feed or sample(model)
    for found, wanted in zip(torch_outputs(model, feed), FloatRunner(model)(feed).values(), strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=atol)


def assert_legalized(model, runtime="tflite", feed=None, atol=1e-6) -> list[str]:
    """Legalizing keeps what the graph computes; gives the operator types that it left."""
    feed = feed or sample(model)
    after = legalize(model, runtime)
    wanted, found = FloatRunner(model)(feed), FloatRunner(after)(feed)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=atol)
    return op_types(after)


@dataclass(frozen=True)
class Lowered:
    """What became of a graph in TFLite. `errors`: greatest difference from float, by output, in real units and in steps of its scale."""

    operators: list[tuple[str, int]]
    errors: dict[str, float]
    steps: dict[str, float]


def lowered(model, precision="float32", last=False, feed=None, kernels="ref") -> Lowered:
    """Legalize, plan, write TFLite and run it ("ref", "builtin" or "xnnpack" kernels) beside the float graph.

    `last` runs every node that may channels-last; else all that may run channels-first.
    """
    feed = feed or sample(model)
    wanted = FloatRunner(model)(feed)
    model = legalize(model, "tflite")
    if precision in ("int8", "int16x8"):
        watched = FloatRunner(model, observed_values(model))(feed)
        stats = SimpleNamespace(values={n: SimpleNamespace(low=float(a.min()), high=float(a.max())) for n, a in watched.items()})
        plan = make_plan(model, stats, choose_precision(TARGET, precision))
    else:
        plan = float_plan(model, TARGET)
    artifact = write_tflite(model, _laid_out(model, plan, last))
    interpreter = _interpreter(artifact, kernels)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    given = {}
    for name, array in feed.items():
        if name in runner.get_input_details():
            moved = artifact.layouts[name] == "channels_last"
            given[name] = np.ascontiguousarray(array.transpose(to_channels_last(array.ndim))) if moved else array
    errors, steps = {}, {}
    for name, array in runner(**given).items():
        if artifact.layouts[name] == "channels_last":
            array = array.transpose(to_channels_first(array.ndim))
        assert array.shape == wanted[name].shape
        errors[name] = float(np.abs(array.astype(np.float64) - wanted[name]).max())
        if name in plan.encodings:
            steps[name] = errors[name] / plan.encodings[name].scale[0]
    return Lowered(list(artifact.operators), errors, steps)


def _interpreter(artifact, kernels):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # The reference resolver lacks these.
    optimized = {"ELU", "ROUND"} & {name for name, _ in artifact.operators}
    resolver = {
        "ref": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if optimized else OpResolverType.BUILTIN_REF,
        "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "xnnpack": OpResolverType.AUTO,
    }[kernels]
    return Interpreter(model_content=artifact.content, experimental_op_resolver_type=resolver)


def _laid_out(model, plan, last):
    """The plan with all ports that allow it channels-last (or first), and each value as its producer makes it."""
    ports = (Port.LAST, Port.NODE) if last else (Port.LAST, Port.OTHER)
    values, nodes = set(), set()
    for node, written in activation_nodes(model.graph):
        rule = operator_of(node).layout(node)
        if last and Port.NODE in (*rule.inputs, *rule.outputs):
            nodes.add(node_name(node))
        outputs = (written, *node.outputs[1:])
        values |= {value for value, port in zip(outputs, rule.outputs, strict=True) if port in ports}
        graph_inputs = (
            value
            for value, port in zip(node.inputs, rule.inputs, strict=True)
            if port in ports and value is not None and value.producer() is None and not is_constant(value)
        )
        values |= set(graph_inputs)
    names = sorted(value.name for value in values if rank(value) >= 3)
    layout, node_layout = dict.fromkeys(names, "channels_last"), dict.fromkeys(sorted(nodes), "channels_last")
    return replace(plan, layout=layout, node_layout=node_layout, io_layout="channels_last")


def builtins(found: Lowered) -> list[tuple[str, int]]:
    """The operators, without the QUANTIZE and DEQUANTIZE at the float boundary and the LEAKY_RELU of `single(leaky=True)`."""
    return [entry for entry in found.operators if entry[0] not in ("QUANTIZE", "DEQUANTIZE", "LEAKY_RELU")]
