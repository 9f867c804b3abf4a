"""A dimension that stays open: one file for every size, proved at sizes that it was not written at, or refused by name."""

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from diagnostics import EdgewrightError
from exporter import convert
from exporter.frontends.onnx import OnnxReference
from tools import zoo

CLASSIFIER = "a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, k) b = Relu(a) c = Flatten(b) y = Gemm(c, w, v)"
WEIGHTS = {"k": (8, 3, 3, 3), "w": (128, 5), "v": (5,)}


@pytest.fixture
def write(tmp_path):
    """Writes model.onnx from a body; gives its path and that of an artifact to be."""

    def written(body, inputs, outputs, **weights):
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g ({inputs}) => ({outputs}) {{ {body} }}')
        random = np.random.default_rng(0)
        for name, weight in weights.items():
            array = random.normal(size=weight).astype(np.float32) if isinstance(weight, tuple) else weight
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx", tmp_path / "model.tflite"

    return written


def assert_equal_at(artifact, original, feeds):
    """LiteRT, resized, gives what the original gives, whether XNNPACK or LiteRT's own kernels compute."""
    reference = OnnxReference(original)
    for kernels in (OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES):
        interpreter = Interpreter(model_path=str(artifact), experimental_op_resolver_type=kernels)
        for feed in feeds:
            (detail,) = interpreter.get_input_details()
            interpreter.resize_tensor_input(detail["index"], feed.shape, strict=True)
            interpreter.allocate_tensors()
            (found,) = interpreter.get_signature_runner()(x=feed).values()
            np.testing.assert_allclose(found, reference({"x": feed})["y"], rtol=1e-4, atol=1e-4)


def normal(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", ["N", "batch", "x:0"])
def test_a_batch_of_images(name, write):
    original, artifact = write(CLASSIFIER, "float[N,3,8,8] x", "float[N,5] y", **WEIGHTS)
    done = convert(original, artifact, dynamic=name)
    assert done.notes == (f"{name} is open in x: proved at the sizes 1 and 5",)
    (detail,) = Interpreter(model_path=str(artifact)).get_input_details()
    assert (list(detail["shape"]), list(detail["shape_signature"])) == ([1, 3, 8, 8], [-1, 3, 8, 8])
    assert_equal_at(artifact, original, [normal(size, 3, 8, 8) for size in (1, 4, 9)])


def test_an_integer_artifact(write):
    original, artifact = write(CLASSIFIER, "float[N,3,8,8] x", "float[N,5] y", **WEIGHTS)
    done = convert(original, artifact, dynamic="N", precision="int8", calibration=normal(8, 3, 8, 8))
    assert done.notes[-1] == "N is open in x: proved at the sizes 1 and 5"
    assert done.sqnr_db > 25


def test_the_length_of_a_sequence(write):
    body = "a = MatMul(x, w) t = Transpose<perm=[0,2,1]>(a) s = MatMul(x, t) p = Softmax<axis=-1>(s) y = MatMul(p, x)"
    original, artifact = write(body, "float[1,T,6] x", "float[1,T,6] y", w=(6, 6))
    convert(original, artifact, dynamic="T", shapes={"x": (1, 12, 6)})
    assert_equal_at(artifact, original, [normal(1, size, 6) for size in (3, 12, 31)])


def test_a_slice_that_takes_all_of_it(write):
    body = "y = Slice(x, starts, ends, axes)"
    ints = {"starts": np.array([1]), "ends": np.array([3]), "axes": np.array([1])}
    original, artifact = write(body, "float[N,4] x", "float[N,2] y", **ints)
    convert(original, artifact, dynamic="N")
    assert_equal_at(artifact, original, [normal(size, 4) for size in (1, 7)])


def refused(write, dynamic, body, inputs, outputs, shapes=None, **weights):
    original, artifact = write(body, inputs, outputs, **weights)
    with pytest.raises(EdgewrightError) as error:
        convert(original, artifact, dynamic=dynamic, shapes=shapes)
    assert not artifact.exists()
    return error.value


def test_what_holds_the_size_in_a_constant_is_named(write):
    """Positions are counted when the file is written."""
    body = "s = Shape(x) n = Gather(s, one) i = Range(zero, n, one) f = Cast<to=1>(i) y = Mul(x, f)"
    ints = {"zero": np.array(0), "one": np.array(1)}
    error = refused(write, "T", body, "float[1,T] x", "float[1,T] y", {"x": (1, 4)}, **ints)
    assert error.code == "EW-T007"
    assert error.why == "MUL (writes y) holds the size in its constant input 1"


def test_other_operators_at_another_size_are_refused(write):
    scan = "<num_scan_inputs=1, body = b (float[4] s, float[4] r) => (float[4] t) { u = Add(s, r) t = Tanh(u) }>"
    error = refused(write, "T", f"y = Scan(h, x) {scan}", "float[T,4] x", "float[4] y", {"x": (3, 4)}, h=(4,))
    assert (error.code, error.why) == ("EW-T007", "it is written with other operators at another size")


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_what_strides_over_it_is_refused(stride, write):
    """Its padding holds for some sizes alone: with padding behind, a window more or less fits at every `stride`-th."""
    body = f"y = Conv<pads=[0,1], strides=[{stride}]>(x, k)"
    error = refused(write, "T", body, "float[1,2,T] x", "float[1,3,U] y", {"x": (1, 2, 24)}, k=(3, 2, 3))
    assert error.code == "EW-T007"


@pytest.mark.parametrize("name", ["length", "y:0", "x:7", "x:0,x:1"])
def test_a_dimension_that_the_model_lacks_is_refused(name, write):
    assert refused(write, name, CLASSIFIER, "float[N,3,8,8] x", "float[N,5] y", **WEIGHTS).code == "EW-U001"


def test_a_dimension_that_is_fixed_is_refused(write):
    assert refused(write, "x:0", CLASSIFIER, "float[1,3,8,8] x", "float[1,5] y", **WEIGHTS).code == "EW-M011"


def test_an_onnx_artifact_keeps_nothing_open(tmp_path):
    with pytest.raises(EdgewrightError) as error:
        convert(tmp_path / "model.onnx", tmp_path / "out.onnx", dynamic="batch")
    assert error.value.code == "EW-U002"


@pytest.mark.slow
def test_a_module_with_an_open_length(tmp_path):
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
            self.embed, self.layers = (
                torch.nn.Embedding(50, 32),
                torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            )

        def forward(self, tokens):
            return self.layers(self.embed(tokens))

    done = convert(Encoder(), tmp_path / "m.tflite", inputs=torch.randint(0, 50, (1, 12)), dynamic="tokens:1")
    assert done.notes[-1].endswith("proved at the sizes 12 and 16")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("model", ["digit_cnn", "efficientnet_lite0"])
def test_models_of_the_zoo_with_an_open_batch(model, precision, tmp_path):
    shape = (6, 1, 28, 28) if model == "digit_cnn" else (6, 3, 224, 224)
    data = np.random.default_rng(0).random(shape).astype(np.float32) if precision == "int8" else None
    done = convert(getattr(zoo, model)(), tmp_path / "m.tflite", dynamic="batch", precision=precision, calibration=data)
    assert done.notes[-1].endswith("proved at the sizes 1 and 5")
