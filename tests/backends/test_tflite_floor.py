"""The TFLite floor: what is younger is named with its node, and older lowerings compute the same."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from diagnostics import TargetError
from exporter.backends.tflite.floor import Emitted, require_floor
from exporter.backends.tflite.layout import assign
from exporter.backends.tflite.releases import UNKNOWN_RELEASE, first_release, release_of
from exporter.backends.tflite.writer import write_tflite
from exporter.quantization.planner import float_plan
from targets.floor import Floor
from tests.ops.op_bench import TARGET, graph, single


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
        "grouped: CONV_2D version 6 needs 2.9.0; gelu: GELU version 1 needs 2.9.0; sign: SIGN version 1 needs 2.11.0"
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
