"""Every family of integer kernels on tflite-micro: LiteRT's reference kernels bit for bit, but SOFTMAX of 16 bits, for the reason given."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integer_bench import feeds, planned
from onnx import helper
from op_bench import graph, single

from diagnostics import TargetError
from exporter.backends.tflite.writer import write_tflite
from exporter.graph.artifacts import read_tflite
from exporter.graph.summary import placements
from exporter.ops.fixed_point import multiply, multiply_long, quantize_multiplier, round_away
from exporter.pipeline import legal, legalized
from exporter.quantization.agreeing import agreed
from exporter.runtimes import available, open_session
from exporter.verification.kernels import differences, kernel_parity
from targets import load_target
from targets.releases.tflite import AVOIDED
from tools.operator_families import FAMILIES, Draw

pytestmark = pytest.mark.skipif(not available("tflite-micro").present, reason="needs tflite-micro")

# Families of builtins that no profile of TensorFlow Lite Micro lists: it has no kernel of them, or none of 16 bits.
ABSENT = {"GELU", "GELU by tanh", "TOPK_V2", "ARG_MAX"}
ABSENT_IN_16 = {
    *("GATHER", "MIRROR_PAD", "REDUCE_MAX", "RESIZE_BILINEAR half pixel", "RESIZE_BILINEAR corners"),
    *("RESIZE_BILINEAR asymmetric", "RESIZE_NEAREST_NEIGHBOR", "LOG_SOFTMAX", "ELU", "HARD_SWISH", "PRELU"),
}


MICRO, ANDROID = load_target("cortex-m7"), load_target("android-arm64-cpu")


def wide(node: Any) -> bool:
    return True


def network(family: str, seed: int, choose: Callable[[Any], bool] | None, path: Path) -> list[dict[str, np.ndarray]]:
    """Writes one network of a family and gives samples of it, half of which saturate."""
    draw = Draw(seed)
    model = FAMILIES[family](draw)
    samples = feeds(model, draw.random, draw.number(0.1, 20), draw.number(-5, 5))
    legal, plan = planned(model, samples, choose, AVOIDED["tflite-micro"])
    path.write_bytes(write_tflite(legal, agreed(legal.graph, plan)).content)
    return [*samples, *({name: 2 * array for name, array in sample.items()} for sample in samples)]


@pytest.mark.parametrize(
    ("family", "bits"),
    [(family, bits) for family in FAMILIES for bits in (8, 16) if family not in (ABSENT if bits == 8 else ABSENT | ABSENT_IN_16)],
)
def test_every_kernel_is_the_reference_kernel_but_one_that_is_a_step_off_with_a_reason(
    family: str, bits: int, tmp_path: Path
) -> None:
    for seed in (0, 1):
        path = tmp_path / "model.tflite"
        samples = network(family, zlib.crc32(family.encode()) + seed, wide if bits == 16 else None, path)
        parity = kernel_parity(path, samples, isolate=False)
        assert parity.samples == len(samples)
        assert parity.layers
        assert [
            found for found in differences(parity) if (found.op, found.dtype) != ("SOFTMAX", "int16") or not found.reason
        ] == []
        assert family == "ELU" or "y0_quantized" not in parity.uncompared


def tensors_of(runtime: str, path: Path, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with open_session(runtime, path, keep_tensors=True, isolate=False) as session:
        session.run(sample)
        return session.tensors()


@pytest.mark.parametrize("bits", [8, 16])
def test_fully_connected_is_avoided_for_what_its_kernels_compute(bits: int, tmp_path: Path) -> None:
    """Each runtime's integers are those of its formula, and the two formulas are not the same."""
    random, path = np.random.default_rng(0), tmp_path / "model.tflite"
    model = single("Gemm", (40, 64), random.normal(size=(24, 64)).astype(np.float32), transB=1)
    samples = feeds(model, random, 1.0, 0.2)
    path.write_bytes(write_tflite(*planned(model, samples, wide if bits == 16 else None)).content)
    facts = read_tflite(path.read_bytes())
    (node,) = (node for node in facts.nodes if node.op_type == "FULLY_CONNECTED")
    x, weight, y = (facts.tensor(name) for name in (node.inputs[0], node.inputs[1], node.outputs[0]))
    micro, reference = (tensors_of(name, path, samples[0]) for name in ("tflite-micro", "litert-ref"))
    centred = micro[x.name].astype(np.int64) - x.zero_point[0]
    sums = centred @ reference[weight.name].astype(np.int64).T + reference[node.inputs[2]]
    factors = [float(np.float32(x.scale[0])) * scale / y.scale[0] for scale in weight.scale]
    pairs = np.asarray([quantize_multiplier(factor) for factor in factors], np.int64)
    fixed = (multiply_long if bits == 16 else multiply)(sums, pairs[:, 0], pairs[:, 1])
    real = round_away(sums * np.asarray(factors))
    limit = 2 ** (bits - 1)
    for found, wanted in ((micro, fixed), (reference, real)):
        clamped = np.clip(wanted + y.zero_point[0], -limit, limit - 1)
        assert np.array_equal(found[y.name], clamped)
    assert bits == 8 or not np.array_equal(fixed, real)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 9),
    depth=st.integers(1, 200),
    width=st.integers(1, 40),
    behind=st.sampled_from(["Identity", "Relu"]),
    bits=st.sampled_from([8, 16]),
    seed=st.integers(0, 1000),
)
def test_layers_written_for_tflite_micro_are_equal_bit_for_bit(
    rows: int, depth: int, width: int, behind: str, bits: int, seed: int, tmp_path: Path
) -> None:
    random, path = np.random.default_rng(seed), tmp_path / "model.tflite"
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["g"], name="g"), helper.make_node(behind, ["g"], ["y"], name="y")]
    weights = random.normal(size=(depth, width)) * random.uniform(0.1, 3, width), random.normal(size=width)
    model = graph(nodes, {"x": (rows, depth)}, ["y"], **{k: v.astype(np.float32) for k, v in zip("wb", weights, strict=True)})
    samples = feeds(model, random, 1.0, 0.2, count=4)
    avoid = AVOIDED["tflite-micro"]
    path.write_bytes(write_tflite(*planned(model, samples, wide if bits == 16 else None, avoid)).content)
    assert "FULLY_CONNECTED" not in {node.op_type for node in read_tflite(path.read_bytes()).nodes}
    parity = kernel_parity(path, samples, isolate=False)
    assert f"CONV_2D int{bits}" in {layer.op for layer in parity}
    assert parity.max_lsb == 0


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.lists(st.integers(1, 3), min_size=5, max_size=8), data=st.data())
def test_a_transpose_of_many_axes_runs_or_is_refused_before_it_is_written(shape: list[int], data: Any, tmp_path: Path) -> None:
    perm, path = tuple(data.draw(st.permutations(range(len(shape))))), tmp_path / "model.tflite"
    model = single("Transpose", tuple(shape), perm=perm, leaky=True)
    samples = feeds(model, np.random.default_rng(0), 1.0, 0.0)
    graph_, plan = planned(model, samples, avoid=AVOIDED["tflite-micro"])
    refused = [place for place in placements(graph_, MICRO) if not place.unit]
    if refused:
        (place,) = refused
        assert place.op_type == "Transpose"
        assert "moves five axes at most" in place.reasons[-1]
        assert sum(length > 1 for length in shape) > 5
        return
    path.write_bytes(write_tflite(graph_, plan).content)
    micro, reference = (tensors_of(name, path, samples[0]) for name in ("tflite-micro", "litert-ref"))
    assert np.array_equal(micro["y0"], reference["y0"])
    x = samples[0]["x0"]
    np.testing.assert_allclose(micro["y0"], np.where(x < 0, 0.01 * x, x).transpose(perm), rtol=0, atol=0.05)


def test_six_axes_that_all_part_are_refused_by_name() -> None:
    model = single("Transpose", (2,) * 6, perm=(5, 4, 3, 2, 1, 0), leaky=True)
    with pytest.raises(TargetError, match="EW-T004") as error:
        legal(model, MICRO)
    assert error.value.why.startswith("node (Transpose): Transpose: TensorFlow Lite Micro moves five axes at most")
    assert not [place for place in placements(legalized(model, ANDROID), ANDROID) if not place.unit]


def test_a_product_of_16_bits_is_scaled_as_the_reason_says(tmp_path: Path) -> None:
    random, path = np.random.default_rng(0), tmp_path / "model.tflite"
    model = single("Mul", (400, 64), (400, 64))
    samples = feeds(model, random, 1.0, 0.0)
    path.write_bytes(write_tflite(*planned(model, samples, wide)).content)
    facts = read_tflite(path.read_bytes())
    (node,) = (node for node in facts.nodes if node.op_type == "MUL")
    left, right, to = (np.float32(facts.tensor(name).scale[0]) for name in (*node.inputs, *node.outputs))
    for runtime, factor in (
        ("tflite-micro", float(left) * float(right) / float(to)),
        ("litert-ref", float(left * right / to)),
    ):
        found = tensors_of(runtime, path, samples[0])
        product = found[node.inputs[0]].astype(np.int64) * found[node.inputs[1]]
        assert np.array_equal(found[node.outputs[0]], np.clip(multiply(product, *quantize_multiplier(factor)), -32768, 32767))
