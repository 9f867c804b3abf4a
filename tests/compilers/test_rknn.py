"""Rockchip's toolkit: what it makes of a profile's form, its simulator beside onnxruntime, and what it prints as a log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from diagnostics import CompilerFailure, RuntimeFailure
from exporter.backends.onnx.writer import write_onnx
from exporter.compilers import Task
from exporter.compilers.rknn import _log, compile_for_rknn
from exporter.quantization.planner import float_plan
from exporter.runtimes import available, open_session
from exporter.runtimes.environments import find_environment
from targets import load_target
from tests.quantization.planned import network, planned, residual_net, run, samples, sqnr

here = pytest.mark.skipif(not available("rknn-simulator").present, reason="edgewright runtimes add rknn-toolkit2==2.5.0")


def test_the_log_has_neither_colours_nor_times_nor_progress() -> None:
    printed = (
        "I rknn-toolkit2 version: 2.5.0\n\x1b[1;33mW\x1b[0m load_onnx: careful\n"
        "I Loading :   0%|      | 0/1\rI Loading : 100%|████| 1/1\nE RKNN: [11:27:17.029] Unkown op target: 0\n"
    )
    assert _log(printed.splitlines()) == "I rknn-toolkit2 version: 2.5.0\nW load_onnx: careful\nE RKNN: Unkown op target: 0\n"


@here
@pytest.mark.slow  # the toolkit imports torch
@pytest.mark.parametrize("name", ["rk3588-npu", "rk3566-npu"])
def test_the_profiles_form_is_built_and_simulates_within_a_step(name: str, tmp_path: Path) -> None:
    model, target = residual_net(), load_target(name)
    plan = planned(model, target)
    content = write_onnx(model, plan, target)
    artifact = tmp_path / "model.onnx"
    artifact.write_bytes(content)
    with open_session("rknn-simulator", artifact, options=target.verification.options["rknn-simulator"]) as session:
        for sample in samples(model, 3, seed=2):
            apart = np.abs(session.run(sample)["y"] - run(content, sample)["y"]).max()
            assert apart <= 1.001 * plan.encodings["y"].scale[0]
    environment = find_environment("rknn-toolkit2")
    assert target.compile is not None
    assert environment is not None
    task = Task(artifact, target.compile.architectures[0], {}, tmp_path, environment.python, 600)
    compiled = compile_for_rknn(task, environment.pin.version)
    assert compiled.files["model.rknn"][:4] == b"RKNN"
    assert compiled.figures["flash_bytes"] == len(compiled.files["model.rknn"])
    assert compiled.options == {"optimization_level": 3}
    assert not compiled.reproducible
    assert str(tmp_path) not in compiled.log


def simulates_in_half_precision(model: ir.Model, tmp_path: Path) -> None:
    """Asserts that the toolkit builds a float artifact, and that its simulator computes what onnxruntime does."""
    target = load_target("rk3588-npu")
    content = write_onnx(model, float_plan(model, target), target)
    artifact = tmp_path / "model.onnx"
    artifact.write_bytes(content)
    (sample,) = samples(model, 1)
    with open_session("rknn-simulator", artifact, options=target.verification.options["rknn-simulator"]) as session:
        np.testing.assert_allclose(session.run(sample)["y"], run(content, sample)["y"], atol=2**-8)


@here
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 8), (2, 4, 8), (1, 2, 4, 8)])
def test_a_layer_normalization_of_any_rank_is_built_and_simulates_in_half_precision(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    """Without its axis, which may be left out, the toolkit ends with a KeyError."""
    axes = ",".join(map(str, shape))
    model = network("y = LayerNormalization (x, s, b)", inputs=f"float[{axes}] x", outputs=f"float[{axes}] y", s=(8,), b=(8,))
    simulates_in_half_precision(model, tmp_path)


@here
@pytest.mark.slow
def test_a_product_with_a_hard_sigmoid_is_built(tmp_path: Path) -> None:
    """Without its alpha, which may be left out, the toolkit ends with a TypeError where it would make a HardSwish of both."""
    shape = "float[1,8,6,6]"
    model = network("h = HardSigmoid (x) y = Mul (x, h)", inputs=f"{shape} x", outputs=f"{shape} y")
    simulates_in_half_precision(model, tmp_path)


@here
@pytest.mark.slow
def test_where_the_toolkit_crashes_at_its_own_level_a_lower_one_is_taken_and_named(tmp_path: Path) -> None:
    """A softmax between two products of int8, as attention has it, on the RK3588."""
    target = load_target("rk3588-npu")
    model = network(
        """
        q1 = LayerNormalization (q, s)  k1 = LayerNormalization (k, s)  v1 = LayerNormalization (v, s)
        a = MatMul (q1, k1)  b = Softmax (a)  c = MatMul (b, v1)  y = Transpose <perm = [0, 2, 1, 3]> (c)
        """,
        inputs="float[1,4,16,16] q, float[1,4,16,16] k, float[1,4,16,16] v",
        outputs="float[1,16,4,16] y",
        s=np.ones(16, np.float32),
    )
    content = write_onnx(model, planned(model, target), target)
    artifact = tmp_path / "model.onnx"
    artifact.write_bytes(content)
    environment = find_environment("rknn-toolkit2")
    assert environment is not None
    task = Task(artifact, "rk3588", {"optimization_level": 3}, tmp_path, environment.python, 600)
    with pytest.raises(CompilerFailure) as caught:
        compile_for_rknn(task, environment.pin.version)
    assert caught.value.code == "EW-R008"
    compiled = compile_for_rknn(replace(task, options={}), environment.pin.version)
    assert compiled.options == {"optimization_level": 2}
    (sample,) = samples(model, 1, seed=3)
    with open_session("rknn-simulator", artifact, options=target.verification.options["rknn-simulator"]) as session:
        assert session.report() == {"optimization_level": 2}
        assert sqnr(run(content, sample)["y"], session.run(sample)["y"]) > 20


@here
@pytest.mark.slow
def test_an_input_of_three_axes_that_is_multiplied_is_built(tmp_path: Path) -> None:
    """Three of the toolkit's rules undo each other for ever there."""
    target = load_target("rk3588-npu")
    model = network("y = MatMul (x, w)", inputs="float[1,8,16] x", outputs="float[1,8,4] y", w=(16, 4))
    plan = planned(model, target)
    content = write_onnx(model, plan, target)
    artifact = tmp_path / "model.onnx"
    artifact.write_bytes(content)
    (sample,) = samples(model, 1, seed=3)
    options = target.verification.options["rknn-simulator"]
    with open_session("rknn-simulator", artifact, options=options, timeout_s=120) as session:
        apart = np.abs(session.run(sample)["y"] - run(content, sample)["y"]).max()
    assert apart <= 1.001 * plan.encodings["y"].scale[0]


@here
@pytest.mark.slow
def test_what_it_cannot_read_is_refused(tmp_path: Path) -> None:
    artifact = tmp_path / "model.onnx"
    artifact.write_bytes(b"no model")
    environment = find_environment("rknn-toolkit2")
    assert environment is not None
    with pytest.raises(CompilerFailure) as caught:
        compile_for_rknn(Task(artifact, "rk3588", {}, tmp_path, environment.python, 600), "2.5.0")
    assert caught.value.code == "EW-R007"
    with pytest.raises(RuntimeFailure) as refused:
        open_session("rknn-simulator", artifact)
    assert refused.value.code == "EW-R002"
