"""The TFLite floor: what is younger is named with its node, and older lowerings compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from diagnostics import TargetError
from exporter import convert, export
from exporter.backends.tflite.container import Tensor
from exporter.backends.tflite.floor import Emitted, require_floor
from exporter.backends.tflite.layout import assign
from exporter.backends.tflite.writer import write_tflite
from exporter.cli.main import main
from exporter.graph.legalize import legalize
from exporter.graph.run import FloatRunner
from exporter.quantization.planner import float_plan
from targets.floor import Floor
from targets.releases.tflite import UNKNOWN_RELEASE, first_release, release_of
from tests.ops.op_bench import TARGET, graph, lowered, op_types, sample, single

WEIGHT = np.random.default_rng(0).normal(size=(6, 2, 3, 3)).astype(np.float32)
BIAS = np.arange(6, dtype=np.float32)


def written(model):
    return write_tflite(model, assign(model, float_plan(model, TARGET), "keep"))


def test_every_operator_is_recorded_with_its_node_and_the_boundary_with_its_output() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("Softmax", ["a"], ["y"], name="second", axis=1),
        helper.make_node("Identity", ["x"], ["z"], name="third"),
    ]
    artifact = written(graph(nodes, {"x": (1, 3, 4)}, ["y", "z"]))
    assert [(entry.node, entry.op) for entry in artifact.emitted] == [
        ("first", "RELU"),
        ("second", "TRANSPOSE"),  # what a node needs before it is written for that node
        ("second", "SOFTMAX"),
        ("output y", "TRANSPOSE"),
        ("output z", "RESHAPE"),
    ]
    assert artifact.operators == tuple((entry.op, entry.version) for entry in artifact.emitted)
    assert artifact.release == first_release(artifact.operators)


def test_releases_are_facts_of_operator_and_version() -> None:
    assert release_of("CONV_2D", 6) == "2.9.0"
    assert release_of("CONV_2D", 99) == release_of("NO_SUCH_OPERATOR", 1) == UNKNOWN_RELEASE
    assert Emitted("node", "GELU", 2).release == "2.9.0"


def test_all_that_is_younger_is_named_once() -> None:
    emitted = [
        Emitted("conv", "CONV_2D", 3),
        Emitted("grouped", "CONV_2D", 6),
        Emitted("gelu", "GELU", 1),
        Emitted("gelu", "GELU", 1),
        Emitted("sign", "SIGN", 1),
    ]
    with pytest.raises(TargetError, match=r"needs TFLite 2\.11\.0, target phone promises tflite>=2\.8") as caught:
        require_floor(emitted, Floor.parse("tflite>=2.8"), "phone")
    assert caught.value.code == "EW-T005"
    assert caught.value.why == (
        "grouped: CONV_2D version 6 needs 2.9.0\ngelu: GELU version 1 needs 2.9.0\nsign: SIGN version 1 needs 2.11.0"
    )


@pytest.mark.parametrize("floor", ["tflite>=2.11", "tflite>=2.11.0", "tflite>=2.14", "tflite>=3"])
def test_what_the_floor_has_is_fine(floor: str) -> None:
    require_floor([Emitted("conv", "CONV_2D", 7), Emitted("relu", "RELU", 1)], Floor.parse(floor), "phone")


def test_the_newest_release_counts_by_number_not_by_text() -> None:
    with pytest.raises(TargetError, match=r"needs TFLite 2\.10\.0"):
        require_floor([Emitted("a", "GELU", 1), Emitted("b", "RELU_0_TO_1", 1)], Floor.parse("tflite>=2.8"), "phone")


def test_the_artifact_says_the_least_runtime_itself() -> None:
    artifact = written(single("Softmax", (2, 5), axis=1))
    assert b"min_runtime_version" in artifact.content
    assert np.frombuffer(artifact.content, np.uint8).tobytes().count(artifact.release.encode().ljust(16, b"\0")) == 1


# --- older lowerings --------------------------------------------------------------------------------------------------

OLDER = {
    "gelu": (single("Gelu", (2, 3, 5)), "tflite>=2.8", "GELU"),
    "gelu by tanh": (single("Gelu", (2, 3, 5), approximate="tanh"), "tflite>=2.8", "GELU"),
    "hard swish": (single("HardSwish", (2, 3, 5)), "tflite>=1.14", "HARD_SWISH"),
    "groups": (single("Conv", (1, 4, 7, 7), WEIGHT, BIAS, group=2, pads=[1] * 4), "tflite>=2.8", None),
    "groups without bias": (single("Conv", (1, 4, 7, 7), WEIGHT, group=2), "tflite>=2.8", None),
    "groups, lopsided": (single("Conv", (1, 4, 7, 7), WEIGHT, BIAS, group=2, pads=[0, 1, 2, 3]), "tflite>=2.8", None),
    "groups along one axis": (single("Conv", (1, 4, 7), WEIGHT[:, :, 0], BIAS, group=2, strides=[2]), "tflite>=2.8", None),
    "expand": (single("Expand", (2, 1, 5), np.array([2, 3, 5])), "tflite>=2.4", "BROADCAST_TO"),
    "expand by axes": (single("Expand", (3, 1), np.array([2, 3, 5])), "tflite>=2.4", "BROADCAST_TO"),
}


@pytest.mark.parametrize("case", OLDER)
def test_an_older_lowering_computes_the_same_and_runs_at_the_floor(case: str) -> None:
    model, text, builtin = OLDER[case]
    floor, feed = Floor.parse(text), sample(model)
    older = legalize(model, "tflite", floor)
    np.testing.assert_allclose(FloatRunner(older)(feed)["y0"], FloatRunner(model)(feed)["y0"], rtol=1e-5, atol=2e-6)
    require_floor(written(older).emitted, floor, "phone")
    if builtin is not None:
        assert builtin not in dict(written(older).operators)


@pytest.mark.parametrize("case", OLDER)
def test_without_a_floor_or_at_its_release_the_newest_lowering_stays(case: str) -> None:
    model, text, _ = OLDER[case]
    newest = written(legalize(model, "tflite"))
    assert not Floor.parse(text).covers(newest.release)
    assert written(legalize(model, "tflite", Floor.parse(f"tflite>={newest.release}"))).operators == newest.operators


@pytest.mark.parametrize("case", OLDER)
def test_litert_runs_the_older_lowering(case: str, tmp_path) -> None:
    model, text, _ = OLDER[case]
    onnx.save(ir.to_proto(model), tmp_path / "model.onnx")
    found = convert(tmp_path / "model.onnx", tmp_path / "model.tflite", runtime=text, isolate=False)
    assert found.sqnr_db is None or found.sqnr_db > 100
    assert Floor.parse(text).covers(found.release)


def test_what_was_taken_apart_is_not_put_together_again() -> None:
    """The pattern of HardSwish in a graph stays where the floor lacks the kernel."""
    nodes = [
        helper.make_node("Add", ["x", "three"], ["a"], name="a"),
        helper.make_node("Clip", ["a", "zero", "six"], ["b"], name="b"),
        helper.make_node("Mul", ["x", "b"], ["c"], name="c"),
        helper.make_node("Div", ["c", "six"], ["y"], name="d"),
    ]
    numbers = {"zero": np.float32(0), "three": np.float32(3), "six": np.float32(6)}
    model = graph(nodes, {"x": (2, 5)}, ["y"], **numbers)
    assert op_types(legalize(model, "tflite")) == ["HardSwish"]
    assert "HardSwish" not in op_types(legalize(model, "tflite", Floor.parse("tflite>=1.14")))


def test_groups_one_by_one_run_in_integers_too() -> None:
    model = legalize(single("Conv", (1, 4, 7, 7), WEIGHT, BIAS, group=2, pads=[1] * 4), "tflite", Floor.parse("tflite>=2.8"))
    found = lowered(model, "int8")
    assert found.operators.count(("CONV_2D", 3)) == 2
    assert found.steps["y0"] <= 1.5


def test_a_depthwise_convolution_needs_no_older_form() -> None:
    model = single("Conv", (1, 6, 7, 7), WEIGHT[:, :1], BIAS, group=6)
    assert op_types(legalize(model, "tflite", Floor.parse("tflite>=1.14"))) == ["Conv"]


@pytest.mark.parametrize(
    ("runtime", "code", "status"), [("tflite>=1.8", "EW-T005", 4), ("onnxruntime>=1.17", "EW-U002", 2), ("tflite", "EW-U001", 2)]
)
def test_the_command_line_refuses_by_name(tmp_path, capsys, runtime: str, code: str, status: int) -> None:
    onnx.save(ir.to_proto(single("CumSum", (2, 5), np.array(1))), tmp_path / "model.onnx")
    assert main(["convert", str(tmp_path / "model.onnx"), str(tmp_path / "model.tflite"), "--runtime", runtime]) == status
    printed = capsys.readouterr().err
    assert code in printed
    assert code != "EW-T005" or "node: CUMSUM version 1 needs 2.4.0" in printed
    assert not (tmp_path / "model.tflite").exists()


def test_an_export_takes_the_floor_as_well(tmp_path) -> None:
    onnx.save(ir.to_proto(single("CumSum", (1, 5), np.array(1))), tmp_path / "model.onnx")
    data = np.ones((5, 5), np.float32)
    outcome, other = export(
        tmp_path / "model.onnx",
        ["android-gpu", "x86-64-cpu"],
        test=data,
        calibration=data,
        runtime="tflite>=1.8",
        out=tmp_path / "out",
    )
    assert isinstance(outcome.error, TargetError)
    assert outcome.error.code == "EW-T005"
    assert "promises tflite>=1.8" in outcome.error.what
    assert other.error is None


@pytest.mark.parametrize(
    ("op", "dtype", "shapes", "release"),
    [
        ("EQUAL", "float32", [(1, 2, 2, 2), (1, 1, 2, 2)], "1.14.0"),
        ("EQUAL", "float32", [(1, 2, 2, 2, 2), (1, 2, 2, 2, 2)], "1.14.0"),
        ("EQUAL", "float32", [(1, 2, 2, 2, 2), ()], UNKNOWN_RELEASE),
        ("SELECT_V2", "float32", [(1, 2, 2, 2, 2), ()], "2.2.0"),
        ("SELECT_V2", "float32", [(1, 1, 2, 2, 2, 2), ()], UNKNOWN_RELEASE),
        ("SELECT_V2", "uint64", [(2,), (2,)], UNKNOWN_RELEASE),
        ("ADD", "float32", [(1, 2, 2, 2, 2), ()], "1.5.0"),
    ],
)
def test_kernels_that_grew_without_a_new_version(op: str, dtype: str, shapes: list[tuple[int, ...]], release: str) -> None:
    assert Emitted("node", op, 1, tuple(Tensor("t", shape, dtype) for shape in shapes)).release == release


def test_a_comparison_broadcast_over_five_axes_is_refused_where_it_would_crash() -> None:
    nodes = [
        helper.make_node("Less", ["x", "zero"], ["a"], name="less"),
        helper.make_node("Cast", ["a"], ["y"], to=1, name="cast"),
    ]
    artifact = written(graph(nodes, {"x": (1, 2, 2, 2, 3)}, ["y"], zero=np.float32(0)))
    assert artifact.release == UNKNOWN_RELEASE
    with pytest.raises(TargetError, match="EW-T005") as caught:
        require_floor(artifact.emitted, Floor.parse("tflite>=2.14"), "phone")
    assert caught.value.why == f"less: LESS version 1 needs {UNKNOWN_RELEASE}"
