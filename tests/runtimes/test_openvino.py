"""OpenVINO as a runtime: names, open dimensions, and that the int8 form of its profile runs in its integer kernels and is right."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from diagnostics import RuntimeFailure
from exporter.backends.onnx.writer import write_onnx
from exporter.runtimes import available, open_session
from targets import load_target
from tests.quantization.planned import planned, residual_net, run, samples

pytestmark = pytest.mark.skipif(not available("openvino").present, reason="pip install 'edgewright[openvino]'")

NAMES = """<ir_version: 10, opset_import: ["" : 21]>
g (float[1,4] x, float[n,4] z) => (float[1,4] y, int64[1,4] k, float[n,4] v, float[1,4] copied) {
  a = Relu(x)
  y = Identity(a)
  k = Cast<to = 7>(y)
  v = Sqrt(z)
  copied = Identity(x)
}"""


def test_a_number_without_axes_is_an_input(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g (float x) => (float y) { y = Sqrt(x) }'), path)
    with open_session("openvino", path) as session:
        assert session.run({"x": np.asarray(9, np.float32)})["y"] == 3


def test_values_keep_the_names_and_dtypes_of_the_artifact(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(NAMES), path)
    given = {"x": np.float32([[-1, 2.5, 0, 3]]), "z": np.float32([[4, 9, 16, 25], [1, 1, 1, 1]])}
    with open_session("openvino", path) as session:
        assert [(info.name, info.shape, info.dtype) for info in session.inputs] == [
            ("x", (1, 4), "float32"),
            ("z", (-1, 4), "float32"),
        ]
        first = session.run(given)
        session.run({"x": -given["x"], "z": given["z"]})
        assert len(session.latency(given, 3)) == 3
    assert {name: (array.dtype.name, array.shape) for name, array in first.items()} == {
        "y": ("float32", (1, 4)),
        "k": ("int64", (1, 4)),
        "v": ("float32", (2, 4)),
        "copied": ("float32", (1, 4)),
    }
    np.testing.assert_array_equal(first["y"], [[0, 2.5, 0, 3]])
    np.testing.assert_array_equal(first["k"], [[0, 2, 0, 3]])
    np.testing.assert_array_equal(first["v"], [[2, 3, 4, 5], [1, 1, 1, 1]])
    np.testing.assert_array_equal(first["copied"], given["x"])


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_profiles_form_runs_in_integer_kernels_within_a_step_of_onnxruntime(precision: str, tmp_path: Path) -> None:
    """With the worker's own setting, and with the one that the plugin chooses by itself on CPUs with bfloat16."""
    model, target = residual_net(), load_target("intel-openvino")
    plan = planned(model, target)
    content = write_onnx(model, plan, target)
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    step = plan.encodings["y"].scale[0]
    with open_session("openvino", path, options={"float": precision}) as session:
        kernels = Counter(session.report()["kernels"])
        for sample in samples(model, 4, seed=5):
            apart = np.abs(session.run(sample)["y"] - run(content, sample)["y"]).max()
            assert apart <= 1.001 * step
    assert kernels["Convolution u8"] == 3
    assert kernels["FullyConnected u8"] == 1


def test_what_it_cannot_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(RuntimeFailure) as caught:
        open_session("openvino", path)
    assert caught.value.code == "EW-R002"
