"""The simulation beside the artifact in onnxruntime: at most one step of the output's encoding apart."""

import numpy as np
import pytest

from exporter.backends.onnx.writer import write_onnx
from exporter.quantization.plan import Encoding
from exporter.quantization.simulate import fake_quantize, simulate
from tests.quantization.planned import network, planned, residual_net, run, samples, target

torch = pytest.importorskip("torch")


def test_fake_quantization_is_the_encoding_s_own_rounding():
    encoding = Encoding("int8", (0.25,), (3,))
    array = np.linspace(-60, 60, 997, dtype=np.float32)
    rounded = fake_quantize(torch.from_numpy(array), encoding).numpy()
    np.testing.assert_array_equal(rounded, encoding.dequantize(encoding.quantize(array)))


@pytest.mark.parametrize(
    "model",
    [
        residual_net,
        lambda: network(
            "a = Conv (x, w, b)  s = Sigmoid (x)  c = Concat <axis = 1> (a, s)  y = MaxPool <kernel_shape = [2, 2]> (c)",
            inputs="float[1,3,4,4] x",
            outputs="float[1,5,3,3] y",
            w=(2, 3, 1, 1),
            b=(2,),
        ),
    ],
    ids=["residual", "requantized"],
)
def test_the_simulation_is_the_artifact_within_one_step(model):
    model = model()
    plan = planned(model)
    content = write_onnx(model, plan, target())
    step = plan.encodings["y"].scale[0]
    apart = []
    for sample in samples(model, 16, seed=9):
        found = run(content, sample)["y"]
        apart.append(np.rint(np.abs(simulate(model, plan, sample)["y"] - found) / step))
    assert np.max(apart) <= 1
    assert np.mean(np.asarray(apart) == 0) > 0.9
