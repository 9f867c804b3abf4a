"""What models and data hold at their edges: an artifact near to the float model on each runtime, or an error that says why not."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter import export
from tests.quantization.planned import network

TARGETS = ("android-arm64-cpu", "x86-64-cpu")
CONV = "y = Conv <pads = [1, 1, 1, 1]> (x, w, b)"
IMAGE = "float[1,4,8,8] x"
Samples = list[dict[str, np.ndarray[Any, Any]]]


def weights(shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(seed).normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def normal(
    count: int = 8, low: float = -np.inf, scale: float = 1.0, name: str = "x", shape: tuple[int, ...] = (1, 4, 8, 8)
) -> Samples:
    random = np.random.default_rng(1)
    return [{name: np.maximum(random.normal(size=shape) * scale, low).astype(np.float32)} for _ in range(count)]


def integers(greatest: int, shape: tuple[int, ...], dtype: Any, count: int = 8) -> Samples:
    random = np.random.default_rng(1)
    return [{"x": random.integers(0, greatest, size=shape).astype(dtype)} for _ in range(count)]


def conv(**changed: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"w": weights((6, 4, 3, 3)), "b": weights((6,), 3), **changed}


def dead(weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    weight[2] = 0
    return weight


ROWS = ("float[1,6,8] x", "float[1,6,5] y")
IDS = "e = Gather (table, x) y = MatMul (e, w)"


def masked(number: float) -> dict[str, Any]:
    return {"w": (8, 6), "v": (6, 5), "mask": np.triu(np.full((6, 6), number, np.float32), 1)}


OUT = "float[1,6,8,8] y"
MASK = "s = MatMul (x, w) m = Add (s, mask) p = Softmax <axis = -1> (m) y = MatMul (p, v)"
# name: (body, inputs, outputs, weights, samples, least decibels)
CASES: dict[str, tuple[str, str, str, Mapping[str, Any], Samples, float]] = {
    "a channel of zero weights": (CONV, IMAGE, OUT, conv(w=dead(weights((6, 4, 3, 3)))), normal(), 30),
    "all weights zero": (CONV, IMAGE, OUT, conv(w=np.zeros((6, 4, 3, 3), np.float32)), normal(), 30),
    "all weights and biases zero": (
        "a = Conv <pads = [1, 1, 1, 1]> (x, w, b) y = Add (a, k)",
        IMAGE,
        OUT,
        conv(w=np.zeros((6, 4, 3, 3), np.float32), b=np.zeros(6, np.float32), k=np.float32([0.5])),
        normal(),
        30,
    ),
    "an input that is constant": (CONV, IMAGE, OUT, conv(), [{"x": np.full((1, 4, 8, 8), 3, np.float32)}] * 4, 30),
    "an input that is zero": (CONV, IMAGE, OUT, conv(), [{"x": np.zeros((1, 4, 8, 8), np.float32)}] * 4, 30),
    "positive values alone": (CONV, IMAGE, OUT, conv(b=np.full(6, 90, np.float32)), normal(low=0), 30),
    "negative values alone": (CONV, IMAGE, OUT, conv(b=np.full(6, -90, np.float32)), [{"x": -s["x"]} for s in normal(low=0)], 30),
    "huge values": (CONV, IMAGE, OUT, conv(b=np.zeros(6, np.float32)), normal(scale=1e30), 30),
    "tiny values": (CONV, IMAGE, OUT, conv(b=np.zeros(6, np.float32)), normal(scale=1e-12), 30),
    "subnormal values": (
        "k = Mul (x, tiny) a = Conv <pads = [1, 1, 1, 1]> (k, w, b) y = Add (a, one)",
        IMAGE,
        OUT,
        conv(tiny=np.float32(1e-40), one=np.float32([1.0]), b=np.zeros(6, np.float32)),
        normal(),
        30,
    ),
    "one sample": (CONV, IMAGE, OUT, conv(), normal(1), 30),
    "a mask of -1e9": (MASK, *ROWS, masked(-1e9), normal(shape=(1, 6, 8)), 25),
    "a mask of the least float": (MASK, *ROWS, masked(np.finfo(np.float32).min), normal(shape=(1, 6, 8)), 25),
    "token ids of int64": (IDS, "int64[1,6] x", ROWS[1], {"table": (50, 8), "w": (8, 5)}, integers(50, (1, 6), np.int64), 25),
    "token ids of int32": (IDS, "int32[1,6] x", ROWS[1], {"table": (50, 8), "w": (8, 5)}, integers(50, (1, 6), np.int32), 25),
    "bytes": (
        "f = Cast <to = 1> (x) s = Mul (f, k) y = Conv <pads = [1, 1, 1, 1]> (s, w, b)",
        "uint8[1,4,8,8] x",
        OUT,
        conv(k=np.float32(1 / 255)),
        integers(256, (1, 4, 8, 8), np.uint8),
        25,
    ),
    "a choice by bool": (
        "c = Conv <pads = [1, 1, 1, 1]> (z, w, b) y = Where (x, c, zero)",
        "bool[1,6,8,8] x, float[1,4,8,8] z",
        OUT,
        conv(zero=np.float32(0)),
        [a | b for a, b in zip(integers(2, (1, 6, 8, 8), bool), normal(name="z"), strict=True)],
        25,
    ),
    "an input that nothing reads": (
        CONV,
        f"{IMAGE}, float[1,3] unused",
        OUT,
        conv(),
        [s | {"unused": np.ones((1, 3), np.float32)} for s in normal()],
        30,
    ),
    "an output that is a shape": (f"{CONV} n = Shape (y)", IMAGE, f"{OUT}, int64[4] n", conv(), normal(), 30),
    "an output that is a constant": (
        f"{CONV} c = Identity (k)",
        IMAGE,
        f"{OUT}, float[2] c",
        conv(k=np.float32([1, 2])),
        normal(),
        30,
    ),
    "a scalar input": (
        "c = Conv <pads = [1, 1, 1, 1]> (z, w, b) y = Mul (c, x)",
        "float x, float[1,4,8,8] z",
        OUT,
        conv(),
        [a | b for a, b in zip(normal(shape=()), normal(name="z"), strict=True)],
        25,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_artifact_is_near_to_the_model(case: str, tmp_path: Path) -> None:
    body, inputs, outputs, held, data, least = CASES[case]
    path = tmp_path / "model.onnx"
    onnx.save(ir.to_proto(network(body, inputs=inputs, outputs=outputs, **held)), path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=RuntimeWarning, module="exporter|calibration")
        found = export(path, targets=list(TARGETS), calibration=data, test=data, out=tmp_path / "bundles")
    assert [outcome.passed for outcome in found] == [True, True]
    for outcome in found:
        worst = outcome.worst("sqnr_db")
        assert worst is not None
        assert worst >= least, outcome.target
