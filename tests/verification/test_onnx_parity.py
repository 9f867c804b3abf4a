"""Two runtimes on one QDQ artifact, layer by layer: what one rounds otherwise shows in its own layer, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration import open_samples
from diagnostics import DataError, ModelError
from exporter.frontends import Source
from exporter.pipeline import Options, build
from exporter.verification.onnx_parity import runtime_parity
from targets.loader import load_target
from targets.precision import choose_precision

V75 = {"htp_arch": 75, "soc_model": 57, "cpu_fallback": True}


def written(source: Source, folder: Path, precision: str = "int8") -> Path:
    target = choose_precision(load_target("snapdragon-8gen3-npu"), precision)
    data = open_samples("tools.zoo:calibration_digits", source.inputs, source.preprocess).take(8)
    path = folder / f"{precision}.onnx"
    build(source, target, data, Options(refine=False)).artifact.write(path)
    return path


def digits(source: Source, count: int):
    return open_samples("tools.zoo:held_out_digits", source.inputs, source.preprocess).take(count)


def test_a_runtime_agrees_with_itself(digit_cnn: Source, tmp_path: Path) -> None:
    parity = runtime_parity(written(digit_cnn, tmp_path), digits(digit_cnn, 3), "onnxruntime", options={"optimize": False})
    assert parity.samples == 3
    assert [layer.op for layer in parity] == [
        *("Conv+Relu", "MaxPool") * 3,
        "Reshape",
        "Gemm+Relu",
        "Gemm",
    ]
    assert parity.max_lsb == 0


def test_fused_integer_kernels_round_a_tie_otherwise_at_most(digit_cnn: Source, tmp_path: Path) -> None:
    assert runtime_parity(written(digit_cnn, tmp_path), digits(digit_cnn, 3), "onnxruntime").max_lsb <= 1


def test_every_layer_of_the_npu_is_within_one_step_of_8_bits(digit_cnn: Source, tmp_path: Path) -> None:
    parity = runtime_parity(written(digit_cnn, tmp_path), digits(digit_cnn, 4), "qnn-htp", options=V75)
    assert parity.max_lsb <= 1
    assert not parity.uncompared
    exact = {layer.op for layer in parity if not layer.max_lsb}
    assert {"MaxPool", "Reshape"} <= exact  # nothing is rounded there


def test_every_layer_of_the_npu_is_within_two_steps_of_16_bits(digit_cnn: Source, tmp_path: Path) -> None:
    """Half a step of 8 bits is 128 of these: what an 8-bit result would come to is far beyond."""
    parity = runtime_parity(written(digit_cnn, tmp_path, "int16x8"), digits(digit_cnn, 4), "qnn-htp", options=V75)
    assert 0 < parity.max_lsb <= 2
    assert not parity.uncompared


def test_another_weight_shows_in_its_own_layer_alone(digit_cnn: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cut model is what the other runtime is given: a bias changed there changes one layer."""
    import exporter.verification.onnx_parity as module

    path = written(digit_cnn, tmp_path)
    whole = module.cut_layers

    def spoilt(model: onnx.ModelProto, points: tuple) -> bytes:
        cut = onnx.ModelProto.FromString(whole(model, points))
        bias = next(entry for entry in cut.graph.initializer if entry.dims == [64] and entry.data_type == onnx.TensorProto.INT32)
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 10_000, bias.name))
        return bytes(cut.SerializeToString())

    monkeypatch.setattr(module, "cut_layers", spoilt)
    parity = runtime_parity(path, digits(digit_cnn, 1), "onnxruntime", options={"optimize": False})
    assert [layer.op for layer in parity.beyond(0)] == ["Conv+Relu"]


def test_what_has_no_quantized_value_or_no_sample_is_refused(digit_cnn: Source, tmp_path: Path) -> None:
    with pytest.raises(DataError) as nothing:
        runtime_parity(written(digit_cnn, tmp_path), [], "onnxruntime")
    assert nothing.value.code == "EW-D001"
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    entries = [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", entries[:1], entries[1:])), tmp_path / "float.onnx")
    with pytest.raises(ModelError) as unquantized:
        runtime_parity(tmp_path / "float.onnx", [{"x": np.zeros(2, np.float32)}], "onnxruntime")
    assert unquantized.value.code == "EW-Q002"
