"""The worker's adapter of Espressif's ESP-PPQ, which runs in an environment of its own: it writes the .espdl of an artifact, and simulates it.

ESP-PPQ is given the artifact's encodings instead of calibrating. What its exporter wrote is read back with its own reader and compared with
the artifact, integer by integer. Like the worker it imports nothing of edgewright; the worker hands it what it builds on.
"""

# ruff: noqa: B905 - zip(strict=) needs Python 3.10, and this file runs from 3.9 on
from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["adapter"]

_HEADER = 16  # bytes in front of the flatbuffer
# Of what ESP-PPQ's importer does to a graph, that which leaves nodes and their encodings as they are.
_COMMANDS = (
    "FORMAT_CONSTANT_INPUT",
    "CONVERT_TO_TENSOR",
    "FORMAT_PARAMETERS",
    "FORMAT_CAST",
    "FORMAT_SLICE",
    "FORMAT_CLIP",
    "FORMAT_PAD",
    "FORMAT_RESIZE",
)


def adapter(base: Any, info: Callable[..., dict[str, Any]]) -> Any:
    """The adapter's class, from the worker's `Adapter` and what describes a tensor there."""
    forms, sums = _beside("espdl_form"), _beside("espdl_sums")

    class EspDl(base):  # type: ignore[misc]
        """ESP-PPQ's simulation of ESP-DL's kernels on one chip.

        Options: target ("esp32s3", "esp32p4"), compiled (a file that takes the .espdl).
        """

        def __init__(self, artifact: str, options: dict[str, Any]) -> None:
            import onnx

            self.target = str(options.get("target", "esp32s3"))
            self.form = forms.float_form(onnx.load(artifact))
            if refused := forms.refusals(self.form, self.target):
                raise ValueError("ESP-DL does not run " + "; ".join(refused))
            graph = self.form.model.graph
            self.inputs, self.outputs = ([self._describe(value) for value in part] for part in (graph.input, graph.output))
            self._graph, self._platform = _quantized(self.form, self.target, forms)
            self._results: list[Any] = []
            self._sums: dict[str, int] = {}
            self._report: dict[str, Any] = {}
            self._simulate()
            if options.get("compiled"):
                self._write(str(options["compiled"]))

        @staticmethod
        def _describe(value: Any) -> dict[str, Any]:
            dims = value.type.tensor_type.shape.dim
            return info(value.name, [dim.dim_value if dim.HasField("dim_value") else None for dim in dims], "float32")

        def _simulate(self) -> None:
            """Make the executor, and one run of it, from which the exporter takes shapes."""
            import torch
            from esp_ppq.executor import TorchExecutor

            torch.set_num_threads(1)
            self._executor = TorchExecutor(self._graph, device="cpu")
            self._hooks = _watches(self.form, self._graph, self.target, forms, sums, self._sums)
            self._executor.tracing_operation_meta({given["name"]: torch.zeros(given["shape"]) for given in self.inputs})

        def _write(self, path: str) -> None:
            import esp_ppq.lib as ppq

            ppq.Exporter(platform=self._platform).export(file_path=path, graph=self._graph, export_config=False)
            with open(path, "rb") as file:
                content = file.read()
            self._report = _compared(content, self.form, forms)

        def feed(self, arrays: dict[str, Any]) -> None:
            import torch

            self._feeds = {name: torch.from_numpy(np.ascontiguousarray(array, np.float32)) for name, array in arrays.items()}

        def invoke(self) -> None:
            self._results = self._executor.forward(inputs=dict(self._feeds), hooks=self._hooks)

        def fetch(self) -> dict[str, Any]:
            return {given["name"]: np.asarray(array.numpy(), np.float32) for given, array in zip(self.outputs, self._results)}

        def report(self) -> dict[str, Any]:
            """Of the .espdl: `operators`, how many of each type; `borders`, its inputs and outputs as an app has to give and take them;
            `constants` and `exponents`, how many are known to be the artifact's.

            `warnings`: nodes whose sums left the accumulators, where the chip saturates and the simulation does not.
            """
            bits = forms.ACCUMULATORS[self.target]
            beyond = [
                f"{name.partition(':')[2]} adds up to {peak}" for name, peak in self._sums.items() if peak >= 2 ** (bits - 1)
            ]
            said = f"on the way, beyond the {bits} bits of {self.target}, which saturates there and the simulation does not"
            return {**self._report, "warnings": [f"{line} {said}" for line in beyond]}

    return EspDl


def _beside(name: str) -> Any:
    """A file beside this one, as a module."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # data classes look themselves up there
    spec.loader.exec_module(module)
    return module


def _watches(form: Any, graph: Any, target: str, forms: Any, sums: Any, found: dict[str, int]) -> dict[str, Any]:
    """Hooks of the nodes whose sums may leave a target's accumulators: they keep how far each goes, by the node's name."""
    from esp_ppq.executor.base import RuntimeHook

    limit = 2 ** (forms.ACCUMULATORS[target] - 1)

    class Watch(RuntimeHook):  # type: ignore[misc]
        def __init__(self, node: Any, weight: Any, bias: Any) -> None:
            super().__init__(graph.operations[node.name])
            self._name, self._weight, self._bias = node.name, weight, bias
            given = {entry.name: list(entry.ints) or entry.i for entry in node.attribute}
            wanted = ("strides", "pads", "dilations", "group") if node.op_type == "Conv" else ()
            self._window = {name: given[name] for name in wanted if name in given}
            self._step = float(form.reads[node.name, 0].scales[0])

        def pre_forward_hook(self, inputs: list[Any], **_: Any) -> list[Any]:
            x = np.rint(inputs[0].numpy() / self._step).astype(np.int32)
            x = x if self._weight.ndim > 2 else x.reshape(-1, x.shape[-1])
            reached = sums.greatest_sum(x, self._weight, self._bias, **self._window)
            found[self._name] = max(found.get(self._name, 0), reached)
            return inputs

    hooks = {}
    for node in form.model.graph.node:
        weight = form.constants.get((node.name, 1))
        if weight is None or node.op_type not in forms.SUMMING or (node.op_type == "MatMul" and weight.ndim != 2):
            continue
        turned = node.op_type == "MatMul" or (
            node.op_type == "Gemm" and not any(entry.name == "transB" and entry.i for entry in node.attribute)
        )
        weight = weight.T if turned else weight
        bias = form.constants.get((node.name, 2), np.zeros(len(weight), np.int32))
        if sums.reachable_sum(weight, bias) >= limit:
            hooks[node.name] = Watch(node, weight, bias)
    return hooks


def _quantized(form: Any, target: str, forms: Any) -> tuple[Any, Any]:
    """ESP-PPQ's graph with the encodings of an artifact, and the platform that stands for the target there."""
    import esp_ppq.lib as ppq
    import onnx
    from esp_ppq.api.espdl_interface import get_target_platform
    from esp_ppq.api.interface import load_graph
    from esp_ppq.IR import GraphCommand, GraphFormatter, GraphReplacer
    from esp_ppq.IR.base.command import GraphCommandType

    platform = get_target_platform(target, "w8a8")
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        path = os.path.join(folder, "float.onnx")
        onnx.save(form.model, path)
        graph = load_graph(path)
    formatter = GraphReplacer(GraphFormatter(graph))
    for command in _COMMANDS:
        formatter(GraphCommand(GraphCommandType[command]))
    quantizer = ppq.Quantizer(platform, graph)
    for node in form.model.graph.node:
        quantizer.quantize_operation(node.name, platform)
        config = graph.operations[node.name].config
        for index, entry in enumerate(config.input_quantization_config):
            _set(entry, form.reads.get((node.name, index)), f"{node.name} reads")
        for index, entry in enumerate(config.output_quantization_config):
            integers = node.op_type not in forms.FLOAT_RESULTS
            _set(entry, form.writes.get((node.name, index)) if integers else None, f"{node.name} writes")
    return graph, platform


def _set(config: Any, encoding: Any, what: str) -> None:
    """Give ESP-PPQ's configuration of one tensor an encoding; none: the tensor stays as it is."""
    import torch
    from esp_ppq.core import QuantizationPolicy, QuantizationProperty, QuantizationStates

    if encoding is None:
        config.state = QuantizationStates.FP32
        return
    axis = config.channel_axis if config.policy.has_property(QuantizationProperty.PER_CHANNEL) else None
    if encoding.axis not in (None, axis):
        wanted = "one a tensor" if axis is None else f"axis {axis}"
        raise ValueError(f"{what} constants of one scale a channel along axis {encoding.axis}, and ESP-DL wants {wanted}")
    layout = QuantizationProperty.PER_TENSOR if encoding.axis is None else QuantizationProperty.PER_CHANNEL
    config.policy = QuantizationPolicy(
        QuantizationProperty.SYMMETRICAL + QuantizationProperty.LINEAR + QuantizationProperty.POWER_OF_2 + layout
    )
    scales = torch.from_numpy(np.array(encoding.scales))
    config.scale = scales[0] if encoding.axis is None else scales
    config.offset = torch.zeros_like(config.scale)
    config.state = QuantizationStates.ACTIVATED


def _compared(content: bytes, form: Any, forms: Any) -> dict[str, Any]:
    """Read an .espdl, and hold its constants and exponents to the artifact's. Raises ValueError where one differs."""
    from esp_ppq.parser.espdl.FlatBuffers.Dl import Model

    graph = Model.Model.GetRootAs(content[_HEADER:], 0).Graph()
    nodes = {node.Name().decode(): node for node in map(graph.Node, range(graph.NodeLength()))}
    tensors = {tensor.Name(): tensor for tensor in map(graph.Initializer, range(graph.InitializerLength()))}
    values = {value.Name(): value for value in map(graph.ValueInfo, range(graph.ValueInfoLength()))}
    counts = {"constants": 0, "exponents": 0}
    for node in form.model.graph.node:
        found = nodes.get(node.name)
        if found is None:
            if node.op_type not in forms.MERGED:
                raise ValueError(f"{node.name} is not in what ESP-PPQ wrote")
            continue
        reads = [(found.Input(at), form.reads.get((node.name, at)), at) for at in range(len(node.input))]
        writes = [(found.Output(at), form.writes.get((node.name, at)), -1) for at in range(len(node.output))]
        for name, encoding, index in reads + ([] if node.op_type in forms.FLOAT_RESULTS else writes):
            if encoding is None:
                continue
            held = tensors[name] if name in tensors else values[name]
            if held.ExponentsAsNumpy().tolist() != list(encoding.exponents):
                raise ValueError(f"{node.name}: ESP-PPQ wrote {name.decode()} with the exponents {held.ExponentsAsNumpy()}")
            counts["exponents"] += 1
            if (node.name, index) in form.constants:
                wanted = _as_written(form.constants[node.name, index], node, index, forms)
                if not np.array_equal(_integers(held, wanted), wanted):
                    raise ValueError(f"{node.name}: ESP-PPQ wrote other integers of {name.decode()} than the artifact has")
                counts["constants"] += 1
    types = [node.OpType().decode() for node in nodes.values()]
    inputs, outputs = (map(graph.Input, range(graph.InputLength())), map(graph.Output, range(graph.OutputLength())))
    borders = [*(f"input {_described(value)}" for value in inputs), *(f"output {_described(value)}" for value in outputs)]
    return {"operators": {name: types.count(name) for name in sorted(set(types))}, "borders": borders, **counts}


def _described(value: Any) -> str:
    """An input or output of an .espdl as an app has to give or take it."""
    from esp_ppq.parser.espdl.FlatBuffers.Dl.TensorDataType import TensorDataType
    from esp_ppq.parser.espdl.FlatBuffers.Dl.TensorTypeAndShape import TensorTypeAndShape

    table, tensor = value.ValueInfoType().Value(), TensorTypeAndShape()
    tensor.Init(table.Bytes, table.Pos)
    shape = tensor.Shape()
    dims = [shape.Dim(at).Value().DimValue() for at in range(shape.DimLength())]
    dtype = next(name.lower() for name, number in vars(TensorDataType).items() if number == tensor.ElemType())
    exponent = f", exponent {value.ExponentsAsNumpy()[0]}" if dtype.startswith("int") else ""
    return f"{value.Name().decode()}: {dtype} {dims}{exponent}"


def _as_written(integers: Any, node: Any, index: int, forms: Any) -> Any:
    """A constant in the order in which its kernel reads it, flat."""
    attributes = {entry.name: entry.i for entry in node.attribute}
    if index == 1 and node.op_type == "Conv":
        return forms.packed(integers, attributes.get("group", 1) > 1)
    if index == 1 and node.op_type == "Gemm":
        return forms.packed(integers if attributes.get("transB", 0) else integers.T, False)
    if index == 1 and node.op_type == "MatMul":
        matrices = integers.reshape(-1, *integers.shape[-2:])
        return np.concatenate([forms.packed(matrix.T, False) for matrix in matrices])
    return integers.reshape(-1)


def _integers(tensor: Any, like: Any) -> Any:
    """The first numbers of a tensor of an .espdl, as many and of the type as `like`; it is padded to 16 bytes."""
    blocks = [tensor.RawData(at).BytesAsNumpy() for at in range(tensor.RawDataLength())]
    return np.concatenate(blocks).view(np.uint8).view(like.dtype)[: like.size] if blocks else np.zeros(0, like.dtype)
