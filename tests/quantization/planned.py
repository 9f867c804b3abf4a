"""Small networks written as text, calibrated and planned: what the tests of quantization and of the ONNX writer start from."""

import zlib
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from calibration import Samples, Store, collect, open_samples
from exporter.frontends.source import Signature
from exporter.graph.passes import canonicalize, legalize
from exporter.graph.run import FloatRunner, observed_values
from exporter.progress import SILENT
from exporter.quantization.plan import Plan
from exporter.quantization.planner import make_plan
from exporter.quantization.refinement.correction import ensure_biases
from targets.schema import Artifact, Quantization, Target, Unit, Verification


def target(io_dtype="float32", precision="int8", floor="", **quantization) -> Target:
    return Target(
        name="bench",
        title="the bench",
        artifact=Artifact(format="onnx", runtime="onnxruntime", precision=precision, io_dtype=io_dtype, floor=floor),
        quantization=Quantization(**quantization),
        units=(Unit(name="cpu", kind="cpu", dtypes=("int8", "uint8", "float16", "float32")),),
        verification=Verification(runtimes=("onnxruntime",), level="run"),
    )


def network(body: str, *, inputs: str, outputs: str, **weights) -> ir.Model:
    """A canonical, legalized network. A weight is an array, or a shape filled with normal numbers seeded by the weight's name."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g ({inputs}) => ({outputs}) {{ {body} }}')
    for name, weight in weights.items():
        if isinstance(weight, tuple):
            spread = 1 / np.sqrt(max(1, np.prod(weight[1:])))
            weight = np.random.default_rng(zlib.crc32(name.encode())).normal(scale=spread, size=weight).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(weight), name))
    return ensure_biases(legalize(canonicalize(ir.from_proto(proto)), "onnx"))


@cache
def residual_net() -> ir.Model:
    """A stem, a depthwise and a pointwise convolution around a residual, pooling and a classifier: 9 kernels."""
    return network(
        """
        a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w1, b1)
        b = Clip (a, zero, six)
        c = Conv <pads = [1, 1, 1, 1], group = 8> (b, w2, b2)
        d = Relu (c)
        e = Conv (d, w3, b3)
        f = Add (b, e)
        g = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (f)
        h = GlobalAveragePool (g)
        i = Flatten (h)
        y = Gemm <transB = 1> (i, w4, b4)
        """,
        inputs="float[1,3,16,16] x",
        outputs="float[1,5] y",
        zero=np.float32(0),
        six=np.float32(6),
        w1=(8, 3, 3, 3),
        b1=(8,),
        w2=(8, 1, 3, 3),
        b2=(8,),
        w3=(8, 8, 1, 1),
        b3=(8,),
        w4=(5, 8),
        b4=(5,),
    )


def samples(model: ir.Model, count: int = 8, seed: int = 0) -> Samples:
    """Normal numbers for every input, one sample each."""
    random = np.random.default_rng(seed)
    shapes = {value.name: tuple(value.shape) for value in model.graph.inputs}
    given = [{name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(count)]
    return open_samples(given, [Signature(name, shape, "float32") for name, shape in shapes.items()])


def statistics(model: ir.Model, data=None) -> Store:
    return collect(FloatRunner(model, observed_values(model)), data or samples(model))


def planned(model: ir.Model, for_target: Target | None = None, data: Samples | None = None) -> Plan:
    """The plan of a model calibrated on `data`, or on `samples`."""
    return make_plan(model, statistics(model, data), for_target or target())


def session(content: bytes, optimized: str = "") -> onnxruntime.InferenceSession:
    """The artifact in onnxruntime; `optimized` is where to write the graph that it really runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = optimized
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(content: bytes, feed) -> dict[str, np.ndarray]:
    opened = session(content)
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, feed), strict=True))


def sqnr(reference: np.ndarray, found: np.ndarray) -> float:
    """Signal to quantization noise in dB."""
    noise = np.square(reference.astype(np.float64) - found).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / max(noise, 1e-30)))


class Told:
    """A progress that keeps its warnings."""

    stage = SILENT.stage

    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)
