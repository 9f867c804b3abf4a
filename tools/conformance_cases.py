"""The ONNX project's own backend tests as cases for a compiler: weights frozen, shapes static, and the rule of what is eligible.

The suite gives every tensor of a node test as a graph input, weights, axes and pads too. A compiler sees a trained model, so `FROZEN` names,
for each operator, the inputs that a trained model holds as constants: parameters (weights, biases, scales, zero points, tables) and
static arguments (shapes, axes, pads, sizes, bounds, counts). Every other input stays an input, indices and sequences' lengths among them.
The expanded form of a test (the operator's function body) has the same inputs as the test, and the same ones are frozen.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["FROZEN", "INELIGIBLE", "Case", "all_cases", "eligible_cases"]

Array = np.ndarray[Any, Any]

# Indices of the inputs that are frozen; every further input of a listed range is data. Operators that are not named freeze nothing.
FROZEN: Final[Mapping[str, frozenset[int]]] = {
    op: frozenset(indices)
    for op, indices in {
        # weights, biases, scales, tables
        "BatchNormalization": (1, 2, 3, 4),
        "CausalConvWithState": (1, 2),
        "Conv": (1, 2),
        "ConvInteger": (1, 2, 3),
        "ConvTranspose": (1, 2),
        "DeformConv": (1, 3),
        "DequantizeLinear": (1, 2),
        "GRU": (1, 2, 3),
        "Gemm": (1, 2),
        "GroupNormalization": (1, 2),
        "InstanceNormalization": (1, 2),
        "LSTM": (1, 2, 3, 7),
        "LayerNormalization": (1, 2),
        "MatMulInteger": (1, 2, 3),
        "PRelu": (1,),
        "QLinearConv": (1, 2, 3, 4, 5, 6, 7, 8),
        "QLinearMatMul": (1, 2, 3, 4, 5, 6, 7),
        "QuantizeLinear": (1, 2),
        "RMSNormalization": (1,),
        "RNN": (1, 2, 3),
        "RotaryEmbedding": (1, 2),
        # static arguments
        "AffineGrid": (1,),
        "BlackmanWindow": (0,),
        "CenterCropPad": (1,),
        "Clip": (1, 2),
        "Col2Im": (1, 2),
        "Compress": (1,),
        "ConstantOfShape": (0,),
        "CumProd": (1,),
        "CumSum": (1,),
        "DFT": (1, 2),
        "Dropout": (1, 2),
        "Expand": (1,),
        "HammingWindow": (0,),
        "HannWindow": (0,),
        "Loop": (0, 1),
        "MaxUnpool": (2,),
        "MelWeightMatrix": (0, 1, 2, 3, 4),
        "NonMaxSuppression": (2, 3, 4),
        "OneHot": (1, 2),
        "Pad": (1, 2, 3),
        "Range": (0, 1, 2),
        "ReduceL1": (1,),
        "ReduceL2": (1,),
        "ReduceLogSum": (1,),
        "ReduceLogSumExp": (1,),
        "ReduceMax": (1,),
        "ReduceMean": (1,),
        "ReduceMin": (1,),
        "ReduceProd": (1,),
        "ReduceSum": (1,),
        "ReduceSumSquare": (1,),
        "Reshape": (1,),
        "Resize": (1, 2, 3),
        "STFT": (1, 2, 3),
        "Slice": (1, 2, 3, 4),
        "Split": (1,),
        "Squeeze": (1,),
        "Tile": (1,),
        "TopK": (1,),
        "Trilu": (1,),
        "Unsqueeze": (1,),
        "Upsample": (1,),
    }.items()
}

# Operators that no inference artifact holds, and why.
INELIGIBLE: Final[Mapping[str, str]] = {
    "Adagrad": "training",
    "Adam": "training",
    "Bernoulli": "random",
    "Gradient": "training",
    "ImageDecoder": "decodes files",
    "Momentum": "training",
    "NegativeLogLikelihoodLoss": "training",
    "SoftmaxCrossEntropyLoss": "training",
}

_NUMERIC: Final = frozenset(
    getattr(onnx.TensorProto, name)
    for name in (
        *("FLOAT", "FLOAT16", "DOUBLE", "BOOL"),
        *("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    )
)


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        name: the suite's, without "test_".
        operator: the operator that it tests; for models from other suites the suite's name.
        multi: whether it is no single-node test: an expanded function body, or a model of another suite.
        model: the model, weights frozen.
        inputs: data by input name.
        outputs: expected arrays in the order of the model's outputs.
        why_not: why it is not eligible; empty where it is.
    """

    name: str
    operator: str
    multi: bool
    model: onnx.ModelProto
    inputs: Mapping[str, Array]
    outputs: Sequence[Array]
    why_not: str = ""


@cache
def all_cases() -> tuple[Case, ...]:
    """Every test of the suites that come with the onnx package, in their order. Takes about four seconds."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite divides by zero on purpose
        nodes = load_model_tests(kind="node")
    singles = {test.name: test.model.graph.node[0] for test in nodes if "_expanded" not in test.name}
    cases = []
    for test in nodes:
        base = test.name.partition("_expanded")[0]
        node = singles[base]
        frozen = {node.input[index] for index in FROZEN.get(node.op_type, ()) if index < len(node.input)}
        [(inputs, outputs), *_] = test.data_sets
        cases.append(_case(test.name, node.op_type, base != test.name, test.model, inputs, outputs, frozen))
    for suite in ("simple", "pytorch-converted", "pytorch-operator"):
        for test in load_model_tests(kind=suite):
            folder = Path(test.model_dir)
            model = onnx.load(folder / "model.onnx")
            data = folder / "test_data_set_0"
            inputs = [_read(data / f"input_{index}.pb") for index in range(len(_required(model)))]
            outputs = [_read(data / f"output_{index}.pb") for index in range(len(model.graph.output))]
            cases.append(_case(test.name, suite, True, model, inputs, outputs))
    return tuple(cases)


def eligible_cases() -> tuple[Case, ...]:
    """The cases that a compiler for inference can be asked for."""
    return tuple(case for case in all_cases() if not case.why_not)


def _case(
    name: str,
    operator: str,
    multi: bool,
    model: onnx.ModelProto,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    frozen: Container[str] = (),
) -> Case:
    label = name.removeprefix("test_")
    why = _why_not(model)
    if why:
        return Case(label, operator, multi, model, {}, (), why)
    model = onnx.ModelProto.FromString(model.SerializeToString())
    required = [value.name for value in _required(model)]
    arrays = {name: np.asarray(array) for name, array in zip(required, inputs, strict=True)}
    for constant in [name for name in required if name in frozen]:
        model.graph.initializer.append(numpy_helper.from_array(arrays.pop(constant), constant))
    for value in [value for value in model.graph.input if value.name not in arrays]:
        model.graph.input.remove(value)
    expected = tuple(np.asarray(array) for array in outputs)
    if any(array.dtype.kind not in "fiub" for array in (*arrays.values(), *expected)):
        return Case(
            label, operator, multi, model, {}, (), "no tensors"
        )  # an optional without a value, a sequence in a tensor's place
    if any(_beyond_float32(array) for array in (*arrays.values(), *expected)):
        # Four tests of an old suite hold uninitialized doubles up to 1e223: TFLite computes in float32, as `convert` says of such models.
        return Case(label, operator, multi, model, {}, (), "numbers beyond float32")
    for value, array in [
        *((value, arrays[value.name]) for value in model.graph.input),
        *zip(model.graph.output, expected, strict=True),
    ]:
        tensor_type = value.type.tensor_type
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, tensor_type.elem_type, array.shape))
    return Case(label, operator, multi, model, arrays, expected)


def _beyond_float32(array: Array) -> bool:
    return array.dtype == np.float64 and bool((np.isfinite(array) & (np.abs(array) > np.finfo(np.float32).max)).any())


def _required(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _why_not(model: onnx.ModelProto) -> str:
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            return f"domain {node.domain}"
        if node.op_type in INELIGIBLE:
            return INELIGIBLE[node.op_type]
        if node.op_type == "Dropout" and len(node.input) > 2:
            return "training"
    for value in (*_required(model), *model.graph.output):
        if value.type.WhichOneof("value") != "tensor_type":
            return "sequences and optionals"
        if value.type.tensor_type.elem_type not in _NUMERIC:
            return "dtype " + onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    return ""


def _read(path: Path) -> Array | None:
    """A stored tensor; None where it is a sequence or a string, which no eligible case has."""
    tensor = onnx.TensorProto.FromString(path.read_bytes())
    return None if tensor.data_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING) else numpy_helper.to_array(tensor)
