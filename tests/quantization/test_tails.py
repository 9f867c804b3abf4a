"""Masks on the way to a softmax: they saturate, the scores keep their steps."""

import numpy as np
import onnx_ir as ir
import pytest

from calibration import collect, open_samples
from exporter.backends.onnx.writer import write_onnx
from exporter.frontends.source import Signature
from exporter.graph.observe import Observer
from exporter.quantization.planner import make_plan
from exporter.quantization.tails import floors_of, with_row_peaks
from tests.quantization.planned import network, run, sqnr, target

SIDE = 12
CAUSAL = np.triu(np.ones((SIDE, SIDE), np.float32), 1)


def attention(mask: float) -> ir.Model:
    """Scores of queries and keys, a causal mask, a softmax."""
    with np.errstate(invalid="ignore"):
        constant = np.where(CAUSAL > 0, np.float32(mask), np.float32(0))
    return network(
        "s = MatMul (q, k)  m = Add (s, mask)  y = Softmax <axis = -1> (m)",
        inputs=f"float[1,{SIDE},8] q, float[1,8,{SIDE}] k",
        outputs=f"float[1,{SIDE},{SIDE}] y",
        mask=constant,
    )


def data(count: int, seed: int):
    random = np.random.default_rng(seed)
    shapes = {"q": (1, SIDE, 8), "k": (1, 8, SIDE)}
    given = [{name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(count)]
    return open_samples(given, [Signature(name, shape, "float32") for name, shape in shapes.items()])


@pytest.mark.parametrize("mask", [-1e4, -1e9, -3.4028235e38, -np.inf])
def test_a_mask_costs_the_scores_nothing(mask: float):
    model = attention(mask)
    store = collect(Observer(with_row_peaks(model)), data(16, 0))
    plan = make_plan(model, store, target())
    encoding = plan.encodings["m"]
    lowest = (-128 - encoding.zero_point[0]) * encoding.scale[0]
    assert -40 < lowest < -8  # the least greatest entry of a row, less 8
    content = write_onnx(model, plan, target())
    for sample in data(4, 1):
        weights = np.exp(sample["q"] @ sample["k"]) * (1 - CAUSAL)
        exact = weights / weights.sum(-1, keepdims=True)
        assert sqnr(exact, run(content, sample)["y"]) > 25


def test_floors_are_those_of_the_rows():
    model = attention(-1e9)
    store = collect(Observer(with_row_peaks(model)), data(16, 0))
    floors = floors_of(model, store.values)
    peaks = [(s["q"] @ s["k"] + CAUSAL * np.float32(-1e9)).max(-1).min() for s in data(16, 0)]
    assert floors["m"] == pytest.approx(min(peaks) - 8.0, abs=1e-4)
    assert floors["mask"] == pytest.approx(floors["m"] - store.values["s"].high, abs=1e-4)
    assert floors["s"] == pytest.approx(floors["m"], abs=1e-4)  # the mask adds 0 at most


def test_a_value_that_someone_else_reads_has_no_floor():
    model = network(
        "m = Add (x, mask)  y = Softmax <axis = -1> (m)  z = LeakyRelu (m)",
        inputs="float[1,4,4] x",
        outputs="float[1,4,4] y, float[1,4,4] z",
        mask=np.full((4, 4), -1e4, np.float32),
    )
    given = [{"x": np.random.default_rng(0).normal(size=(1, 4, 4)).astype(np.float32)}]
    store = collect(Observer(with_row_peaks(model)), open_samples(given, [Signature("x", (1, 4, 4), "float32")]))
    assert "m" not in floors_of(model, store.values)


def floors(body: str, outputs: str, **weights) -> dict[str, float]:
    model = network(body, inputs="float[1,4,4,4] x", outputs=outputs, **weights)
    given = [{"x": np.random.default_rng(0).normal(size=(1, 4, 4, 4)).astype(np.float32) * 9}]
    store = collect(Observer(with_row_peaks(model)), open_samples(given, [Signature("x", (1, 4, 4, 4), "float32")]))
    return floors_of(model, store.values)


def test_a_floor_goes_through_what_moves_entries_and_not_through_what_averages_them():
    moved = floors("m = Transpose <perm = [0, 1, 3, 2]> (x)  y = Softmax <axis = -1> (m)", "float[1,4,4,4] y")
    assert moved["x"] == moved["m"]
    averaged = floors("m = AveragePool <kernel_shape = [2, 2]> (x)  y = Softmax <axis = -1> (m)", "float[1,4,3,3] y")
    assert "m" in averaged
    assert "x" not in averaged  # -100 and 50 have another mean than -10 and 50


def test_every_output_of_a_split_counts():
    body = "a, b = Split <axis = 1> (x, sizes)  y = Softmax <axis = -1> (a)  z = Tanh (b)"
    found = floors(body, "float[1,2,4,4] y, float[1,2,4,4] z", sizes=np.array([2, 2]))
    assert "a" in found
    assert "x" not in found


@pytest.mark.parametrize(
    ("body", "floor"),
    [
        ("g = HardSwish (m)  y = Tanh (g)", -3.0),
        ("h = HardSigmoid <alpha = 0.25> (m)  g = Mul (m, h)  y = Tanh (g)", -2.0),
        ("t = Add (m, three)  h = Clip (t, zero, six)  g = Mul (h, m)  y = Tanh (g)", -3.0),
        ("t = Add (m, three)  h = Clip (t, zero, six)  k = Div (h, six)  g = Mul (m, k)  y = Tanh (g)", -3.0),
        ("k = Mul (two, m)  t = Add (k, three)  h = Relu (t)  g = Mul (m, h)  y = Tanh (g)", -1.5),
        ("h = Sigmoid (m)  g = Mul (m, h)  y = Tanh (g)", -np.log(511)),
        ("y = Clip (m, minus, six)", -1.0),
    ],
)
def test_what_a_gate_makes_zero_needs_no_steps(body: str, floor: float):
    constants = {"zero": 0.0, "two": 2.0, "three": 3.0, "six": 6.0, "minus": -1.0}
    model_body = "m = Tanh (x)  " + body
    used = {name: np.float32(number) for name, number in constants.items() if name in body.replace("(", " ").replace(",", " ")}
    found = floors(model_body, "float[1,4,4,4] y", **used)
    assert found["m"] == pytest.approx(floor, abs=1e-6)


def test_what_someone_else_reads_of_a_gated_value_counts():
    assert "m" not in floors("m = LeakyRelu (x)  g = HardSwish (m)  y = Add (m, g)", "float[1,4,4,4] y")
    assert "m" not in floors("m = LeakyRelu (x)  h = Sigmoid (x)  y = Mul (m, h)", "float[1,4,4,4] y")
    assert "m" not in floors("m = LeakyRelu (x)  h = HardSigmoid <alpha = -0.5> (m)  y = Mul (m, h)", "float[1,4,4,4] y")


def test_sixteen_bits_keep_what_is_nothing_to_eight():
    model = network("m = LeakyRelu (x)  y = Sigmoid (m)", inputs="float[1,4] x", outputs="float[1,4] y")
    given = [{"x": np.full((1, 4), -9, np.float32)}]
    store = collect(Observer(model), open_samples(given, [Signature("x", (1, 4), "float32")]))
    assert "m" in floors_of(model, store.values)
    assert "m" not in floors_of(model, store.values, "int16")


def test_hard_swish_of_far_negative_values_keeps_its_accuracy():
    """The floor gives the curve the steps that values which it makes zero would waste."""
    model = network("y = HardSwish (x)", inputs="float[1,1,16,16] x", outputs="float[1,1,16,16] y")
    x = (9 * (np.random.default_rng(3).normal(size=(1, 1, 16, 16)) - 2.0)).clip(-45, 2.7).astype(np.float32)
    store = collect(Observer(model), open_samples([{"x": x}], [Signature("x", x.shape, "float32")]))
    plan = make_plan(model, store, target())
    step = plan.encodings["x"].scale[0]
    assert step == pytest.approx(5.7 / 255, rel=0.02)
    error = np.abs(x * np.clip(x / 6 + 0.5, 0, 1) - run(write_onnx(model, plan, target()), {"x": x})["y"]).max()
    # Where the curve is steepest, 1.5, the end of the range lies up to a step off, as zero has an integer.
    assert error < 1.5 * step + plan.encodings["y"].scale[0]
