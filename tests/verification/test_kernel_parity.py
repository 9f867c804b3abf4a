"""tflite-micro's kernels beside LiteRT's reference kernels: equal bit for bit, or one step apart for the reason that is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import TfliteBuilder, add_int8
from torch import nn

from calibration import open_samples
from diagnostics import DataError
from exporter.frontends import load
from exporter.pipeline import Options, build
from exporter.quantization.plan import Plan
from exporter.runtimes import available, open_session
from exporter.verification.kernels import Difference, differences, kernel_parity
from exporter.verification.parity import LayerParity, Parity
from exporter.verification.prove import prove
from targets import load_target
from targets.precision import choose_precision

SCALE_OF_A_TIE = 0.0211735013872  # 100 steps of it are where 256 times the sigmoid is 228.4999984

pytestmark = pytest.mark.skipif(not available("tflite-micro").present, reason="needs tflite-micro")


def test_what_one_operator_computes_otherwise_is_not_counted_at_the_next(tmp_path: Path) -> None:
    """Two layers of 16 bits behind one another: the second differs on some inputs of its own, and is judged on all of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Softmax(-1), nn.Linear(64, 64)).eval()
    source = load(model, inputs=(torch.zeros(20, 64),))
    data = [{source.inputs[0].name: np.random.default_rng(seed).normal(size=(20, 64)).astype(np.float32)} for seed in range(3)]
    opened = open_samples(data, source.inputs)
    built = build(source, choose_precision(load_target("cortex-m7"), "int16x8"), opened, Options(refine=False, method="minmax"))
    path = tmp_path / "model.tflite"
    built.artifact.write(path)
    parity = kernel_parity(path, opened)
    assert parity.uncompared == ()
    assert {layer.op for layer in parity} >= {"CONV_2D int16", "SOFTMAX int16"}
    assert all(layer.elements == 3 * 20 * 64 for layer in parity)
    assert parity.max_lsb <= 1
    proof = prove(built, opened)
    assert {found.op for found in proof.kernels} <= {"SOFTMAX"}
    assert proof.kernels == differences(kernel_parity(path, opened.take(4)))


def test_a_profile_may_keep_fully_connected_layers_which_are_one_step_apart_at_most(tmp_path: Path) -> None:
    profile = tmp_path / "fast.toml"
    profile.write_text('extends = "cortex-m7"\nname = "fast"\n[artifact]\nkept = ["FULLY_CONNECTED"]\n')
    torch.manual_seed(0)
    source = load(nn.Linear(96, 512).eval(), inputs=(torch.zeros(20, 96),))
    data = [{source.inputs[0].name: np.random.default_rng(seed).normal(size=(20, 96)).astype(np.float32)} for seed in range(4)]
    opened = open_samples(data, source.inputs)
    found = {}
    for name in ("cortex-m7", str(profile)):
        built = build(source, load_target(name), opened, Options(refine=False))
        built.artifact.write(tmp_path / "model.tflite")
        found[name] = kernel_parity(tmp_path / "model.tflite", opened)
    plain, kept = found.values()
    assert not differences(plain)
    (difference,) = differences(kept)
    assert (difference.op, difference.dtype, difference.max_lsb) == ("FULLY_CONNECTED", "int8", 1)
    assert "rounds twice" in difference.reason


def test_a_sigmoid_close_to_a_tie_is_nearest_on_tflite_micro_and_rounded_once_more_by_litert(tmp_path: Path) -> None:
    tables = TfliteBuilder()
    x = tables.tensor("x", (1, 256), "int8", [SCALE_OF_A_TIE], [-3])
    y = tables.tensor("y", (1, 256), "int8", [1 / 256], [-128])
    tables.operator("LOGISTIC", [x], [y])
    path, integers = tables.save(tmp_path / "sigmoid.tflite", [x], [y]), np.arange(-128, 128)
    found = {}
    for runtime in ("tflite-micro", "litert-ref"):
        with open_session(runtime, path, isolate=False) as session:
            found[runtime] = session.run({"x": integers.astype(np.int8)[None]})["y"].ravel().astype(int)
    micro, reference = found.values()
    exact = 256 / (1 + np.exp(-SCALE_OF_A_TIE * (integers + 3))) - 128
    np.testing.assert_array_equal(micro, np.clip(np.rint(exact), -128, 127))
    (off,) = np.flatnonzero(micro != reference)
    assert (integers[off], reference[off] - micro[off]) == (97, 1)
    assert abs(exact[off] - 100.5) < 1e-5


class Gated(nn.Module):
    """Products and slopes, whose factors between scales rarely agree in 16 bits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.leaky_relu(x * torch.sigmoid(x), 0.1) * x


@pytest.mark.parametrize(
    ("target", "precision", "moves"),
    [("cortex-m7", "int16x8", True), ("esp32-s3", "int8", False), ("raspberry-pi-5", "int8", False)],
)
def test_scales_move_for_tflite_micro_alone_and_stay_powers_of_two_where_they_must(
    target: str, precision: str, moves: bool, tmp_path: Path
) -> None:
    source = load(Gated().eval(), inputs=(torch.zeros(1, 64, 64),))
    random = np.random.default_rng(0)
    data = [{source.inputs[0].name: random.normal(0, 3, (1, 64, 64)).astype(np.float32)} for _ in range(4)]
    opened = open_samples(data, source.inputs)
    built = build(source, choose_precision(load_target(target), precision), opened, Options())
    assert bool(built.plan.moved) is moves
    assert built.plan == Plan.from_json(built.plan.to_json())
    if moves:
        evidence = prove(built, opened)
        assert evidence.kernels == ()
        for name, before in built.plan.moved.items():
            assert 0 < 1 - built.plan.encodings[name].scale[0] / before < 2e-3
            assert np.float32(built.plan.encodings[name].scale[0]) == built.plan.encodings[name].scale[0]


def layer(op: str, off_by_one: int, more: int = 0) -> LayerParity:
    return LayerParity("t", op, 100, off_by_one, more, 2 if more else min(off_by_one, 1))


def test_a_reason_is_given_for_one_step_of_a_kernel_that_is_known_alone() -> None:
    parity = Parity(
        1,
        (layer("ADD int8", 0), layer("SOFTMAX int16", 3), layer("SOFTMAX int16", 2), layer("MUL int8", 1, 1)),
        (),
    )
    known, unknown = differences(parity)
    assert (known.op, known.dtype, known.mismatches, known.elements, known.max_lsb) == ("SOFTMAX", "int16", 5, 200, 1)
    assert "tables of exponentials" in known.reason
    assert unknown == Difference("MUL", "int8", 2, 100, 2, "")
    assert str(unknown) == "MUL of int8 differs in 2 of 100 elements by at most 2: no reason is known"


def test_there_is_something_to_compare_on(tmp_path: Path) -> None:
    path = add_int8(tmp_path / "model.tflite")
    with pytest.raises(DataError, match="EW-D001"):
        kernel_parity(path, [])


class Clamps(nn.Module):
    """A clamp of its own between encodings that do not clamp: the branches beside it have wider ones."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        six, one = torch.clamp(x, 0, 6), torch.clamp(x, -1, 1)
        return torch.cat([six, x, one], 1) * 2.5


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_clamps_that_stand_alone_are_right_on_tflite_micro(precision: str, tmp_path: Path) -> None:
    """Its RELU6 does not requantize, and it has no RELU_N1_TO_1."""
    source = load(Clamps().eval(), inputs=(torch.zeros(1, 3, 8, 8),))
    random = np.random.default_rng(0)
    data = [{source.inputs[0].name: random.normal(0, 6, (1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    opened = open_samples(data, source.inputs)
    built = build(source, choose_precision(load_target("cortex-m7"), precision), opened, Options(refine=False, method="minmax"))
    evidence = prove(built, opened)
    assert evidence.kernels == ()
    assert evidence.deciding.worst("sqnr_db")[1] > (35 if precision == "int8" else 70)
