"""Context binaries for the Hexagon NPU: one for each architecture, the same bytes twice, and in the emulator the artifact's own numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from calibration import open_samples
from diagnostics import CompilerFailure
from exporter import export
from exporter.compilers import Compiled, Task
from exporter.compilers.qnn import compile_for_htp
from exporter.frontends import Source
from exporter.pipeline import Options, build
from exporter.runtimes import available, open_session
from targets.loader import load_target


@pytest.fixture(scope="module")
def artifact(digit_cnn: Source) -> bytes:
    data = open_samples("tools.zoo:calibration_digits", digit_cnn.inputs, digit_cnn.preprocess).take(8)
    return build(digit_cnn, load_target("snapdragon-8gen3-npu"), data, Options(refine=False)).artifact.content


def task(folder: Path, content: bytes, architecture: str = "v75", **options: int) -> Task:
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(content)
    return Task(path, architecture, options, folder, Path(sys.executable), 120)


def compiled(folder: Path, content: bytes, architecture: str = "v75", **options: int) -> Compiled:
    return compile_for_htp(task(folder, content, architecture, **options), available("qnn-htp").version or "")


def test_each_architecture_has_code_of_its_own_and_the_same_bytes_twice(artifact: bytes, tmp_path: Path) -> None:
    first, again = (compiled(tmp_path / name, artifact, soc_model=57) for name in ("a", "b"))
    other = compiled(tmp_path / "c", artifact, "v79", soc_model=69)
    assert list(first.files) == ["model_ctx.onnx", "model_ctx_qnn.bin"]
    assert first == again
    assert first.files["model_ctx_qnn.bin"] != other.files["model_ctx_qnn.bin"]


def test_every_operator_is_on_the_npu_and_the_log_says_for_which_device(artifact: bytes, tmp_path: Path) -> None:
    found = compiled(tmp_path, artifact, soc_model=57)
    assert len(found.placements) == 13
    assert not found.left_out
    assert found.figures["partitions"] == 1
    assert found.figures["flash_bytes"] == sum(map(len, found.files.values()))
    assert ":75:57:" in found.log
    assert str(tmp_path) not in found.log


def test_the_compiled_graph_computes_in_the_emulator_what_the_artifact_does(
    artifact: bytes, digit_cnn: Source, tmp_path: Path
) -> None:
    for name, content in compiled(tmp_path / "work", artifact, soc_model=57).files.items():
        (tmp_path / name).write_bytes(content)
    options = {"htp_arch": 75, "soc_model": 57}
    (tmp_path / "model.onnx").write_bytes(artifact)
    with (
        open_session("qnn-htp", tmp_path / "model.onnx", options=options) as one,
        open_session("qnn-htp", tmp_path / "model_ctx.onnx", options=options) as other,
    ):
        for sample in open_samples("tools.zoo:held_out_digits", digit_cnn.inputs, digit_cnn.preprocess).take(4):
            for name, array in one.run(sample).items():
                np.testing.assert_array_equal(other.run(sample)[name], array)


def determinant() -> bytes:
    """``relu(det(x))``; the NPU has no determinant."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 2, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    nodes = [helper.make_node("Det", ["x"], ["d"], "the_det"), helper.make_node("Relu", ["d"], ["y"], "the_relu")]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def test_what_the_npu_does_not_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CompilerFailure) as caught:
        compiled(tmp_path, determinant())
    assert caught.value.code == "EW-R007"
    assert "the NPU does not run the_det (Det)" in caught.value.why
    assert ":onnxruntime:" not in caught.value.why


def test_where_it_may_such_a_node_is_left_to_the_cpu_and_said_so(tmp_path: Path) -> None:
    found = compiled(tmp_path, determinant(), cpu_fallback=True)
    assert [(entry.op_type, entry.unit) for entry in found.placements] == [("Det", "cpu"), ("Relu", "npu")]
    assert found.left_out[0].reasons


@pytest.mark.parametrize("architecture", ["v999", "75", "ethos-u55-128"])
def test_an_architecture_that_there_is_not_is_refused(artifact: bytes, tmp_path: Path, architecture: str) -> None:
    with pytest.raises(CompilerFailure) as caught:
        compiled(tmp_path, artifact, architecture)
    assert caught.value.code == "EW-R007"
    assert "v79" in caught.value.why or "v73" in caught.value.fix


def test_a_bundle_holds_what_apps_load(tmp_path: Path) -> None:
    (outcome,) = export(
        "tools.zoo:digit_cnn",
        targets=["snapdragon-8elite-npu"],
        calibration="tools.zoo:calibration_digits",
        test="tools.zoo:held_out_digits",
        samples=8,
        test_samples=4,
        refine=False,
        out=tmp_path,
    )
    assert outcome.bundle is not None
    (record,) = outcome.bundle.manifest.compiled
    assert (record["compiler"], record["architecture"], record["options"]) == ("qnn-htp", "v79", {"soc_model": 69})
    loaded, code = (outcome.bundle.path / name for name in record["files"][:2])
    (node,) = onnx.load(loaded, load_external_data=False).graph.node
    assert node.op_type == "EPContext"
    assert code.name == next(entry.s.decode() for entry in node.attribute if entry.name == "ep_cache_context")


def test_profile_runtime_and_compiler_are_told_of_one_device() -> None:
    for name in ("snapdragon-8gen2-npu", "snapdragon-8gen3-npu", "snapdragon-8elite-npu"):
        target = load_target(name)
        assert target.compile is not None
        told = target.verification.options["qnn-htp"]
        assert target.compile.architectures == (f"v{told['htp_arch']}",)
        assert target.compile.options["soc_model"] == told["soc_model"]
        assert target.compile.compiler == "qnn-htp"
