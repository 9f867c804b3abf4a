"""Every target's own check: a small network is exported and right on the runtime that the profile names, or refused with its reasons."""

from __future__ import annotations

import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibration import Samples, open_samples
from exporter.converting import LEAST_DB
from exporter.frontends import Source, load
from exporter.runtimes import available
from targets import load_target, target_names
from targets.precision import choose_precision, precisions_of
from tools.matrix_rows import measured, row
from tools.zoo_cases import CASES

# A stem, a depthwise and a pointwise convolution around a residual, a pooling and a classifier: what every device is made for.
PLAIN = """
  a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1)
  b = Clip (a, zero, six)
  c = Conv <pads = [1, 1, 1, 1], group = 16> (b, w2, b2)
  d = Relu (c)
  e = Conv (d, w3, b3)
  f = Add (b, e)
  g = GlobalAveragePool (f)
  h = Reshape (g, flat)
  y = Gemm <transB = 1> (h, w4, b4)
"""
# What some devices lack: a cumulative sum is in no list of an NPU, and has no integer kernel anywhere.
ODD = PLAIN.replace("y = Gemm <transB = 1> (h, w4, b4)", "i = Gemm <transB = 1> (h, w4, b4)\n  y = CumSum (i, axis)")
WEIGHTS = {
    "w1": (16, 3, 3, 3),
    "b1": (16,),
    "w2": (16, 1, 3, 3),
    "b2": (16,),
    "w3": (16, 16, 1, 1),
    "b3": (16,),
    "w4": (5, 16),
    "b4": (5,),
}
GOOD_DB = 20.0


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("networks")

    @cache
    def of(body: str) -> tuple[Source, Samples, Samples]:
        proto = onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["" : 21]> g (float[1,3,16,16] x) => (float[1,5] y) {{ {body} }}'
        )
        constants: dict[str, np.ndarray] = {
            "zero": np.float32(0),
            "six": np.float32(6),
            "flat": np.int64([1, 16]),
            "axis": np.int64(1),
        }
        for name, shape in WEIGHTS.items():
            spread = 1 / np.sqrt(max(1, np.prod(shape[1:])))
            constants[name] = np.random.default_rng(zlib.crc32(name.encode())).normal(0, spread, shape).astype(np.float32)
        used = {name for node in proto.graph.node for name in node.input}
        for name in sorted(used & set(constants)):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(constants[name]), name))
        path = Path(folder) / f"{zlib.crc32(body.encode())}.onnx"
        onnx.save(proto, path)
        source = load(path)
        data = np.random.default_rng(0).normal(size=(12, 1, 3, 16, 16)).astype(np.float32)
        opened = open_samples([{"x": sample} for sample in data], source.inputs, source.preprocess)
        return source, opened.take(8), opened.take(4)

    return of


@pytest.fixture(autouse=True)
def no_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in environments of its own takes too long here (`tests/compilers`)."""
    monkeypatch.setenv("EDGEWRIGHT_CACHE", str(tmp_path))


def skip_without_runtime(name: str) -> None:
    deciding = available(load_target(name).verification.runtimes[0])
    if not deciding.present:
        pytest.skip(deciding.how_to_get)


@pytest.mark.parametrize("name", target_names())
def test_every_target_exports_a_plain_network_and_proves_it(name: str, network) -> None:
    skip_without_runtime(name)
    source, calibration, tests = network(PLAIN)
    found = row(source, name, calibration, tests)
    assert found["status"] == "verified", found
    assert found["runtime"] == load_target(name).verification.runtimes[0]
    assert float(found["sqnr_db"]) > GOOD_DB
    first = load_target(name).units[0].name
    assert all(where.startswith(f"{first} ") for where in found["nodes"]), found["nodes"]
    if load_target(name).artifact.runtime == "tflite-micro":
        explained_beside_the_reference(found)


def explained_beside_the_reference(found: dict[str, Any]) -> None:
    """On tflite-micro: every integer that any operator writes is the reference kernels', or one step off for a reason that is known."""
    beside = found["reference"]
    assert beside["compared"] > 0
    assert beside["uncompared"] == []
    assert [kernel for kernel in beside["kernels"] if not kernel["reason"]] == []
    assert beside["mismatches"] == 0 or beside["kernels"], "outputs differ though no operator does"
    assert abs(found["arena_told"] - found["arena"]) <= 0.05 * found["arena"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "precision"),
    [
        *(
            ("digit_cnn", "int8"),
            ("digit_cnn", "int16x8"),
            ("digit_cnn", "auto"),
            ("cifar_cnn", "int8"),
            ("cifar_cnn", "int16x8"),
        ),
        *(("mtcnn_onet", "int8"), ("mtcnn_onet", "auto"), ("facemesh", "int8")),  # PRelu has no kernel of 16 bits
    ],
)
def test_zoo_models_are_on_tflite_micro_what_they_are_on_the_reference_kernels(model: str, precision: str) -> None:
    skip_without_runtime("cortex-m55")
    case = CASES[model]
    source = load(f"tools.zoo:{case.model}")
    calibration = open_samples(case.calibration, source.inputs, source.preprocess).take(16)
    tests = open_samples(case.held_out, source.inputs, source.preprocess).take(8)
    found = measured(source, choose_precision(load_target("cortex-m55"), precision), calibration, tests)
    explained_beside_the_reference(found)


OTHERS = [
    (name, precision)
    for name in target_names()
    for precision in precisions_of(load_target(name))
    if precision not in ("auto", load_target(name).artifact.precision)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), OTHERS)
def test_every_precision_that_a_profile_lists_runs_on_its_runtime(name: str, precision: str, network) -> None:
    skip_without_runtime(name)
    source, calibration, tests = network(PLAIN)
    found = measured(source, choose_precision(load_target(name), precision), calibration, tests)
    assert float(found["sqnr_db"]) > LEAST_DB[precision]
    if load_target(name).artifact.runtime == "tflite-micro":
        explained_beside_the_reference(found)


@pytest.mark.parametrize("name", target_names())
def test_what_a_target_lacks_goes_to_another_unit_or_is_refused_by_name(name: str, network) -> None:
    skip_without_runtime(name)
    source, calibration, tests = network(ODD)
    found = row(source, name, calibration, tests)
    target = load_target(name)
    if found["status"] == "refused":
        assert found["code"] in ("EW-T004", "EW-Q003")
        assert "CumSum" in found["why"]
        assert not target.has_float or all("*" not in unit.operators for unit in target.units)
    else:
        assert float(found["sqnr_db"]) > GOOD_DB
        (unit,) = {unit for unit in target.units if "*" in unit.operators or "CumSum" in unit.operators}
        assert f"{unit.name} float32" in found["nodes"] or f"{unit.name} float16" in found["nodes"]
        assert unit == target.units[0] or found["why"][f"{target.units[0].name} does not run CumSum"] == 1
