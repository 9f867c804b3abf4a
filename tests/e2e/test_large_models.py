"""A model that is really over 2 GB, there and back: 2.4 GB of disk twice, 8 GB of memory, two minutes."""

import numpy as np
import onnx
import pytest

from exporter import convert
from tests.backends.test_tflite_large import run

WIDTH, LAYERS = 8192, 9


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Products with nine matrices of 256 MiB, which lie in a file of their own."""
    folder = tmp_path_factory.mktemp("large")
    random = np.random.default_rng(0)
    nodes, weights = [], []
    with (folder / "weights").open("wb") as stream:
        for layer in range(LAYERS):
            matrix = random.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(np.sqrt(WIDTH))
            tensor = onnx.TensorProto(name=f"w{layer}", data_type=1, dims=matrix.shape, data_location=onnx.TensorProto.EXTERNAL)
            places = {"location": "weights", "offset": str(stream.tell()), "length": str(matrix.nbytes)}
            tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in places.items())
            stream.write(matrix.data)
            weights.append(tensor)
            nodes.append(onnx.helper.make_node("MatMul", [f"h{layer}", f"w{layer}"], [f"h{layer + 1}"]))
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1, WIDTH]) for name in ("h0", f"h{LAYERS}")]
    graph = onnx.helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.slow
def test_a_tflite_file_over_2_gb_runs(model, tmp_path):
    made = convert(model, tmp_path / "model.tflite")
    assert made.path.stat().st_size > 2**31
    assert made.sqnr_db > 100
    feed = {"h0": np.ones((1, WIDTH), np.float32)}
    assert np.isfinite(run(made.path, feed, "xnnpack")).all()


@pytest.mark.slow
def test_an_onnx_file_over_2_gb_names_its_weights(model, tmp_path):
    made = convert(model, tmp_path / "model.onnx")
    assert made.sqnr_db is None
    assert made.path.stat().st_size < 2**16
    assert [file.stat().st_size > 2**31 for file in made.beside] == [True]
