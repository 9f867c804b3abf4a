"""Files for older onnxruntimes: the same numbers at an older opset, or a refusal that names what is younger."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from diagnostics import TargetError
from exporter.backends.onnx import downgrade
from exporter.backends.onnx.downgrade import fit_floor
from exporter.backends.onnx.writer import write_onnx
from exporter.graph.passes import legalize
from exporter.graph.run import FloatRunner
from exporter.quantization.planner import float_plan
from targets.floor import Floor
from targets.releases.onnxruntime import Format, first_release, format_for
from tests.ops.op_bench import assert_legalized, graph, op_types, sample, single
from tests.quantization.planned import planned, residual_net, run, samples, target


def model(op_type: str, opset: int = 21, dtype: int = TensorProto.FLOAT, inputs=(), **attributes) -> onnx.ModelProto:
    """One node of `x` (2 x 3) and further constants."""
    names = [f"c{index}" for index in range(len(inputs))]
    proto = helper.make_graph(
        [helper.make_node(op_type, ["x", *names], ["y"], name="node", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", dtype, [2, 3])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(array, name) for name, array in zip(names, inputs, strict=True)],
    )
    made = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def opset_of(proto: onnx.ModelProto) -> int:
    return next(entry.version for entry in proto.opset_import if not entry.domain)


@pytest.mark.parametrize(
    ("floor", "form"),
    [
        ("onnxruntime>=1.10", Format(15, 7)),
        ("onnxruntime>=1.14", Format(17, 8)),
        ("onnxruntime>=1.15.1", Format(18, 8)),
        ("onnxruntime>=1.16.3", Format(19, 9)),
        ("onnxruntime>=1.18", Format(21, 10)),
        ("onnxruntime>=1.22", Format(22, 10)),
        ("onnxruntime>=2", Format(26, 13)),
    ],
)
def test_each_release_reads_one_newest_format(floor: str, form: Format) -> None:
    assert format_for(Floor.parse(floor)) == form


def test_a_floor_older_than_the_table_is_refused() -> None:
    with pytest.raises(TargetError, match=r"nothing is written for onnxruntime>=1\.9") as caught:
        format_for(Floor.parse("onnxruntime>=1.9"))
    assert caught.value.code == "EW-T005"


def test_the_first_release_of_an_opset() -> None:
    assert [first_release(opset) for opset in (7, 18, 21, 24, 99)] == ["1.10", "1.15", "1.18", "1.24", "newer than 1.26"]


@pytest.mark.parametrize("release", ["1.10", "1.12", "1.13", "1.15", "1.16", "1.17", "1.18", "1.22"])
def test_a_quantized_network_computes_the_same_at_every_floor(release: str) -> None:
    network = residual_net()
    old = target(floor=f"onnxruntime>={release}")
    content = write_onnx(network, planned(network, old), old)
    form = format_for(Floor.parse(old.artifact.floor))
    proto = onnx.load_from_string(content)
    assert opset_of(proto) == min(21, form.opset)
    assert proto.ir_version == min(10, form.ir_version)
    newest = write_onnx(network, planned(network, old), target())
    for one in samples(network, 2, seed=7):
        np.testing.assert_array_equal(run(content, one)["y"], run(newest, one)["y"])


def test_the_same_graph_gives_the_same_bytes() -> None:
    network, old = residual_net(), target(floor="onnxruntime>=1.15")
    assert write_onnx(network, planned(network, old), old) == write_onnx(network, planned(network, old), old)


def test_a_floor_that_reads_it_changes_nothing_but_the_ir_version() -> None:
    before = model("Relu", opset=18)
    after = fit_floor(model("Relu", opset=18), Floor.parse("onnxruntime>=1.16"), "t")
    assert (after.ir_version, opset_of(after)) == (9, 18)
    assert after.graph == before.graph


def test_default_attributes_that_the_older_opset_does_not_know_are_dropped() -> None:
    given = model("ReduceMean", inputs=[np.array([1])], noop_with_empty_axes=0, keepdims=1)
    older = fit_floor(given, Floor.parse("onnxruntime>=1.13"), "t")
    [node] = older.graph.node
    assert {attribute.name for attribute in node.attribute} >= {"axes"}
    assert "noop_with_empty_axes" not in {attribute.name for attribute in node.attribute}


def test_what_a_reduction_does_without_axes_is_dropped_where_it_has_some() -> None:
    given = model("ReduceMin", inputs=[np.array([1])], noop_with_empty_axes=1)
    [node] = fit_floor(given, Floor.parse("onnxruntime>=1.13"), "t").graph.node
    assert {attribute.name for attribute in node.attribute} <= {"axes", "keepdims"}
    with pytest.raises(TargetError, match="EW-T005"):
        fit_floor(model("ReduceMin", noop_with_empty_axes=1), Floor.parse("onnxruntime>=1.13"), "t")


def test_all_operators_that_are_too_young_are_named_with_opset_and_release() -> None:
    nodes = [
        helper.make_node("Gelu", ["x"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="old"),
        helper.make_node("Mish", ["b"], ["c"], name="two"),
        helper.make_node("Gelu", ["c"], ["y"], name="three"),
    ]
    younger = onnx.ModelProto()
    younger.CopyFrom(model("Relu"))
    del younger.graph.node[:]
    younger.graph.node.extend(nodes)
    with pytest.raises(
        TargetError, match=r"needs onnxruntime 1\.18 \(opset 21\), target t promises onnxruntime>=1\.13"
    ) as caught:
        fit_floor(younger, Floor.parse("onnxruntime>=1.13"), "t")
    assert caught.value.code == "EW-T005"
    assert caught.value.why == (
        "one: Gelu came with opset 20, onnxruntime 1.17; two: Mish came with opset 18, onnxruntime 1.15; "
        "three: Gelu came with opset 20, onnxruntime 1.17"
    )


def test_a_form_that_the_older_opset_lacks_is_refused() -> None:
    younger = model("ReduceMax", opset=20, dtype=TensorProto.BOOL, inputs=[np.array([1])])
    with pytest.raises(TargetError, match="EW-T005") as caught:
        fit_floor(younger, Floor.parse("onnxruntime>=1.15"), "t")
    assert "it cannot be said in opset 18" in caught.value.why


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_a_pad_that_is_the_same_in_every_opset_is_said_in_an_older_one(mode: str) -> None:
    given = model("Pad", inputs=[np.array([0, 1, 0, 2])], mode=mode)
    older = fit_floor(given, Floor.parse("onnxruntime>=1.13"), "t")
    assert [(node.op_type, node.domain) for node in older.graph.node] == [("Pad", "")]
    assert [(entry.domain, entry.version) for entry in older.opset_import] == [("", 17)]


@pytest.mark.parametrize("inputs", [[np.array([1, 2]), np.float32(0), np.array([1])], [np.array([0, 1, 0, 2])]])
def test_a_pad_of_a_later_definition_is_refused(inputs: list[np.ndarray]) -> None:
    with pytest.raises(TargetError, match="EW-T005") as caught:
        fit_floor(
            model("Pad", inputs=inputs, mode="constant" if len(inputs) > 1 else "wrap"), Floor.parse("onnxruntime>=1.13"), "t"
        )
    assert "it cannot be said in opset 17" in caught.value.why


def test_control_flow_is_refused_by_name() -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value_float=1.0)], "b", [], [helper.make_empty_tensor_value_info("k")]
    )
    given = model("Relu")
    given.graph.node.append(helper.make_node("If", ["q"], ["z"], name="branch", then_branch=inner, else_branch=inner))
    with pytest.raises(TargetError) as caught:
        fit_floor(given, Floor.parse("onnxruntime>=1.15"), "t")
    assert caught.value.why == "branch: the graphs inside of If cannot be converted"


def test_the_converter_is_not_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx import version_converter

    def wrong(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        return model("Neg", opset=opset)

    monkeypatch.setattr(version_converter, "convert_version", wrong)
    with pytest.raises(TargetError) as caught:
        fit_floor(model("Relu"), Floor.parse("onnxruntime>=1.15"), "t")
    assert caught.value.why == "said in opset 18, the outputs y differ"


def test_indices_are_checked_with_zeros_where_random_numbers_are_none() -> None:
    gather = helper.make_graph(
        [helper.make_node("Gather", ["only", "x"], ["y"], name="node")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])],
        [numpy_helper.from_array(np.ones(1, np.float32), "only")],
    )
    younger = helper.make_model(gather, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    assert opset_of(fit_floor(younger, Floor.parse("onnxruntime>=1.15"), "t")) == 18


def test_what_runs_on_nothing_is_not_called_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        raise ValueError("no")

    monkeypatch.setattr(downgrade, "_run", fails)
    with pytest.raises(TargetError, match="EW-T005") as caught:
        fit_floor(model("Relu"), Floor.parse("onnxruntime>=1.15"), "t")
    assert "it cannot be checked" in caught.value.why


@pytest.mark.parametrize(("op_type", "release"), [("Gelu", "1.16"), ("Mish", "1.13"), ("HardSwish", "1.13")])
def test_younger_operators_become_their_definition(op_type: str, release: str) -> None:
    given, floor = single(op_type, (2, 3)), Floor.parse(f"onnxruntime>={release}")
    after = legalize(given, "onnx", floor)
    assert (op_type in op_types(after)) == (op_type == "HardSwish")  # opset 14: older than any floor
    feed = sample(given)
    np.testing.assert_allclose(FloatRunner(after)(feed)["y0"], FloatRunner(given)(feed)["y0"], rtol=1e-5, atol=1e-6)
    old = target(precision="float32", floor=str(floor))
    assert opset_of(onnx.load_from_string(write_onnx(after, float_plan(after, old), old))) == format_for(floor).opset


def test_without_a_floor_they_stay() -> None:
    assert assert_legalized(graph([helper.make_node("Gelu", ["x"], ["y"], name="n")], {"x": (2, 3)}, ["y"]), "onnx") == ["Gelu"]
