"""Scales that are moved so that tflite-micro's kernels and LiteRT's reference kernels agree: which, how far, and what follows them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import network, planned

from exporter.graph.values import activation_nodes
from exporter.ops.base import operator_of
from exporter.quantization.agreeing import agreed
from exporter.quantization.apply import read_encoding, runs_in_integers
from exporter.quantization.plan import Encoding, Plan

TIE = float(np.float32(0.0211735013872))  # 100 steps of it are where 256 times the sigmoid is 228.4999984


def disagreeing(graph: ir.Graph, plan: Plan) -> list[str]:
    found = []
    for node, written in activation_nodes(graph):
        if runs_in_integers(node, plan):
            read = [read_encoding(node, index, plan) for index in range(len(node.inputs))]
            if not operator_of(node).agrees(node, read, [plan.encodings.get(written.name or "")]):
                found.append(node.op_type)
    return found


def with_encoding(plan: Plan, *names: str, scale: float, zero_point: int = -3) -> Plan:
    encoding = Encoding("int8", (scale,), (zero_point,))
    return replace(plan, encodings={**plan.encodings, **dict.fromkeys(names, encoding)})


def gated() -> ir.Model:
    """x * sigmoid(x) behind a convolution and before another one."""
    return network(
        "a = Conv (x, w, b)  s = Sigmoid (a)  m = Mul (a, s)  y = Conv (m, v, c)",
        inputs="float[1,3,4,4] x",
        outputs="float[1,2,4,4] y",
        w=(4, 3, 1, 1),
        b=(4,),
        v=(2, 4, 1, 1),
        c=(2,),
    )


def test_a_scale_moves_down_by_a_few_units_and_the_biases_behind_it_follow() -> None:
    model = gated()
    plan = with_encoding(planned(model), "a", scale=TIE)
    assert "Sigmoid" in disagreeing(model.graph, plan)
    found = agreed(model.graph, plan)
    assert disagreeing(model.graph, found) == []
    assert found.moved["a"] == TIE
    assert 0 < 1 - found.encodings["a"].scale[0] / TIE < 1e-4
    assert found.encodings["a"].zero_point == (-3,)
    changed = {name for name, encoding in found.encodings.items() if plan.encodings[name] != encoding}
    assert changed - {"c"} == set(found.moved)  # c is the bias of what reads m
    for name, scale in found.moved.items():
        assert scale == plan.encodings[name].scale[0] > found.encodings[name].scale[0]
    if "m" in found.moved:
        products = np.float32(found.encodings["m"].scale[0]) * np.asarray(found.encodings["v"].scale, np.float32)
        np.testing.assert_array_equal(np.asarray(found.encodings["c"].scale, np.float32), products)
    assert agreed(model.graph, found) == found


def test_a_plan_that_agrees_stays_as_it_is() -> None:
    model = gated()
    plan = with_encoding(planned(model), "a", scale=TIE * (1 - 1e-5))
    assert disagreeing(model.graph, plan) == []
    assert agreed(model.graph, plan) is plan


def test_values_of_one_encoding_move_together() -> None:
    model = network(
        "a = Conv (x, w, b)  l = LeakyRelu (x)  k = Concat <axis = 1> (a, l)  s = Sigmoid (k)  y = Conv (s, v, c)",
        inputs="float[1,3,4,4] x",
        outputs="float[1,2,4,4] y",
        w=(4, 3, 1, 1),
        b=(4,),
        v=(2, 7, 1, 1),
        c=(2,),
    )
    plan = with_encoding(planned(model), "a", "l", "k", scale=TIE)
    found = agreed(model.graph, plan)
    assert disagreeing(model.graph, found) == []
    assert {"a", "l", "k"} == set(found.moved)
    assert len({found.encodings[name] for name in "alk"}) == 1


@pytest.mark.parametrize(("body", "finer"), [("a = Tanh (x)", False), ("a = Conv (x, w, b)", True)])
def test_what_cannot_move_is_read_requantized(body: str, finer: bool) -> None:
    """A sigmoid behind a tanh, whose scale is fixed; and one whose steps are so wide that tflite-micro's sigmoid of 0 is 0."""
    model = network(f"{body}  y = Sigmoid (a)", inputs="float[1,4,4,4] x", outputs="float[1,4,4,4] y", w=(4, 4, 1, 1), b=(4,))
    plan = planned(model)
    if finer:
        plan = with_encoding(plan, "a", scale=9.0)
    assert disagreeing(model.graph, plan) == ["Sigmoid"]
    found = agreed(model.graph, plan)
    assert disagreeing(model.graph, found) == []
    assert (found.encodings, found.moved) == (plan.encodings, {})
    ((key, own),) = found.requantize.items()
    assert key.endswith(":0")
    stored = plan.encodings["a"]
    every = np.arange(-128, 128).astype(np.int8)
    real, read = stored.dequantize(every), own.dequantize(own.quantize(stored.dequantize(every)))
    np.testing.assert_allclose(np.tanh(read / 2), np.tanh(real / 2), rtol=0, atol=2e-3)  # twice the sigmoid, but for 1
    assert (own.scale[0] < stored.scale[0] / 2) is finer


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_whatever_the_scales_all_kernels_agree_in_the_end(seed: int) -> None:
    model = network(
        """a = Conv (x, w, b)  l = LeakyRelu (a)  s = Sigmoid (a)  m = Mul (l, s)  t = Tanh (m)  n = Mul (t, a)
        k = Concat <axis = 1> (m, n)  p = PRelu (k, q)  y = Conv (p, v, c)""",
        inputs="float[1,3,4,4] x",
        outputs="float[1,2,4,4] y",
        w=(4, 3, 1, 1),
        b=(4,),
        q=(8, 1, 1),
        v=(2, 8, 1, 1),
        c=(2,),
    )
    random = np.random.default_rng(seed)
    plan = planned(model)
    for names in ("a", "l", "mnk", "p"):
        scale = float(np.float32(10 ** random.uniform(-3, 0.5)))
        plan = with_encoding(plan, *names, scale=scale, zero_point=int(random.integers(-128, 128)))
    found = agreed(model.graph, plan)
    assert disagreeing(model.graph, found) == []
    for name, encoding in found.encodings.items():
        assert 0 <= 1 - encoding.scale[0] / plan.encodings[name].scale[0] < 2e-3
    assert agreed(model.graph, plan) == found
