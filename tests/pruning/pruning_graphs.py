"""Small canonical graphs to prune, a way to run them, and the definition of "this channel does not count"."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from exporter.graph.values import is_constant, name_of, static_shape
from exporter.ops.base import operator_of
from exporter.pruning.groups import Groups, end_of


class Net:
    """Writes a network node by node; every method takes and gives value names. Weights are drawn from `seed`."""

    def __init__(self, channels: int = 3, size: int = 8, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shapes = {"x": (1, channels, size, size)}

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        number = len(self.nodes)
        names = [f"v{number}"] if outputs == 1 else [f"v{number}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=f"{op_type.lower()}{number}", **attributes))
        for info in onnx.shape_inference.infer_shapes(self.proto(names), data_prop=True).graph.value_info:
            self.shapes[info.name] = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        for info in onnx.shape_inference.infer_shapes(self.proto(names), data_prop=True).graph.output:
            self.shapes[info.name] = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        return names[0] if outputs == 1 else " ".join(names)

    def const(self, array: np.ndarray, name: str = "") -> str:
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, name: str = "") -> str:
        fan = max(1, int(np.prod(shape[1:])))
        return self.const((self.random.standard_normal(shape) / np.sqrt(fan)).astype(np.float32), name)

    def conv(self, x: str, filters: int, kernel: int = 3, group: int = 1, name: str = "") -> str:
        name = name or f"conv{len(self.nodes)}"
        weight = self.weight(filters, self.shapes[x][1] // group, kernel, kernel, name=f"{name}.weight")
        pad = kernel // 2
        return self.op("Conv", x, weight, self.weight(filters, name=f"{name}.bias"), group=group, pads=[pad] * 4)

    def depthwise(self, x: str, multiplier: int = 1) -> str:
        channels = self.shapes[x][1]
        return self.conv(x, channels * multiplier, group=channels)

    def squeeze_excite(self, x: str, width: int = 2) -> str:
        gate = self.op("GlobalAveragePool", x)
        gate = self.op("Relu", self.conv(gate, width, 1))
        return self.op("Mul", x, self.op("HardSigmoid", self.conv(gate, self.shapes[x][1], 1)))

    def gemm(self, x: str, rows: int) -> str:
        weight = self.weight(rows, self.shapes[x][1], name=f"gemm{len(self.nodes)}.weight")
        return self.op("Gemm", x, weight, self.weight(rows), transB=1)

    def proto(self, outputs: list[str]) -> onnx.ModelProto:
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shapes.get(name)) for name in outputs]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shapes["x"])]
        graph = helper.make_graph(self.nodes, "net", inputs, infos, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def model(self, *outputs: str) -> ir.Model:
        proto = self.proto(list(outputs))
        onnx.checker.check_model(proto, full_check=True)
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def noise(model: ir.Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Normal noise for every input, float32."""
    random = np.random.default_rng(seed)
    return {value.name: random.standard_normal(static_shape(value)).astype(np.float32) for value in model.graph.inputs}


def run(model: ir.Model) -> list[np.ndarray]:
    """Outputs on noise by onnxruntime, which takes no graph that ONNX forbids; nothing fused, one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, noise(model))


def run_exactly(model: ir.Model) -> list[np.ndarray]:
    """Outputs on noise in float64, by the operators' own torch rule: rounding is out of the way of any comparison."""
    import torch

    def double(array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(array))
        return tensor.double() if tensor.is_floating_point() else tensor

    known = {name: double(array) for name, array in noise(model).items()}
    known |= {name: double(value.const_value.numpy()) for name, value in model.graph.initializers.items()}
    with torch.no_grad():
        for node in model.graph:
            results = operator_of(node).torch(node, [None if value is None else known[value.name] for value in node.inputs])
            known |= {value.name: result for value, result in zip(node.outputs, results, strict=True)}
    return [known[value.name].numpy() for value in model.graph.outputs]


def silence(model: ir.Model, groups: Groups, removed: np.ndarray) -> ir.Model:
    """The model of full size in which nothing reads the removed channels: each weight that a sum gives them is zero.

    A channel leaves the elementwise part of a network only where a node sums over channels (a tie without a run on an output).
    With zeros there, whatever the channel holds cannot reach the outputs, whether or not its activation maps 0 to 0; so a
    right cut computes the same, and a cut at wrong indices does not: the producers keep their weights.
    """
    copy = model.clone()
    for node, entry in zip(copy.graph, groups.couplings, strict=True):
        coupling, used = entry if entry is not None else (None, ())
        for tie, flag in zip(coupling.ties if coupling else (), used, strict=True):
            if not flag or any(entry.side == "out" for entry in tie):
                continue
            weights = [channels for channels in tie if is_constant(end_of(node, channels))]
            assert weights or node.op_type == "Slice", (
                f"{node.name} multiplies two activations over the channels: nothing to set to zero"
            )
            for channels in weights:
                value = end_of(node, channels)
                array = value.const_value.numpy().copy()
                np.moveaxis(array, channels.axis, 0)[removed[groups.labels[(name_of(value), channels.axis)]]] = 0.0
                value.const_value = ir.tensor(array, name=value.name)
    return copy


def some_of_each(groups: Groups, seed: int, share: float = 1.0) -> np.ndarray:
    """A random choice of classes, at most a `share` of each group, that leaves at least one in each."""
    random = np.random.default_rng(seed)
    removed = np.zeros(groups.count, bool)
    for group in groups.groups:
        count = int(random.integers(0, max(2, int(share * len(group.classes)))))
        removed[random.permutation(group.classes)[:count]] = True
    return removed


def difference(model: ir.Model, other: ir.Model) -> float:
    """Greatest difference of the outputs in onnxruntime, in units of the greatest output (of 1, where all are smaller)."""
    return _greatest(run(model), run(other), least=1.0)


def exact_difference(model: ir.Model, other: ir.Model) -> float:
    """Greatest difference of the outputs in float64, in units of the greatest output."""
    return _greatest(run_exactly(model), run_exactly(other), least=1e-30)


def _greatest(these: list[np.ndarray], those: list[np.ndarray], least: float) -> float:
    pairs = list(zip(these, those, strict=True))
    assert pairs
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), least)) for a, b in pairs)
