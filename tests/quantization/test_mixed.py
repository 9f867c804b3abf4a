"""Mixed precision: what it spares is what hurts, and no more."""

import numpy as np

from exporter.quantization.mixing.mixed import Mixer
from exporter.quantization.mixing.sensitivity import planned_db
from targets.cost import CostModel
from tests.quantization.planned import network, planned, residual_net, samples, target

GAINS = np.ones((1, 8, 1, 1), np.float32)
GAINS[0, 3] = 1e4  # brought back by negative factors: those that are not go through poolings, into the weights in front


def outliers():
    """Between two poolings one channel is 10,000 times as large as the others, then brought back."""
    weights = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    return network(
        """
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        k = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)
        s = Mul (k, losses)
        m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (s)
        c = Conv (m, w2, b2)
        r = Relu (c)
        y = Conv (r, w3, b3)
        """,
        inputs="float[1,3,8,8] x",
        outputs="float[1,4,8,8] y",
        losses=-1 / GAINS,
        w1=weights * GAINS.reshape(8, 1, 1, 1),
        b1=(8,),
        w2=(8, 8, 1, 1),
        b2=(8,),
        w3=(4, 8, 1, 1),
        b3=(4,),
    )


def test_a_plan_that_meets_the_goal_stays_as_it_is():
    model = residual_net()
    found = Mixer(model, planned(model), CostModel(target()), samples(model, seed=1)).mixture(20)
    assert not found.forms
    assert found.sqnr_db > 20


def test_only_the_nodes_around_the_outlier_go_to_float():
    model = outliers()
    plan = planned(model)
    found = Mixer(model, plan, CostModel(target()), samples(model, seed=1)).mixture(25)
    assert planned_db(model, plan, samples(model, seed=1)) < 10
    assert found.sqnr_db >= 25
    kept = {node.op_type for node in model.graph if node.name in found.forms}
    assert kept == {"Conv", "MaxPool", "Mul"}
    assert 0 < found.macs < 0.8  # the first convolution of three
    assert any("value a alone" in reason or "value k alone" in reason for reason in found.reasons.values())


def test_an_output_that_no_gate_is_about_keeps_nothing_out_of_the_integers():
    """Of two outputs 8 bits ruin one: whoever gates the other gets plain int8, and by so many decibels less, less leaves the integers."""
    model = network(
        """
        p = Conv (x, w2, b2)
        z = Relu (p)
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        k = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)
        s = Mul (k, losses)
        y = Conv (s, w3, b3)
        """,
        inputs="float[1,3,8,8] x",
        outputs="float[1,4,8,8] y, float[1,8,8,8] z",
        losses=-1 / GAINS,
        w1=np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32) * GAINS.reshape(8, 1, 1, 1),
        b1=(8,),
        w2=(8, 3, 1, 1),
        b2=(8,),
        w3=(4, 8, 1, 1),
        b3=(4,),
    )
    plan = planned(model)

    def left(handicaps):
        return Mixer(model, plan, CostModel(target()), samples(model, seed=1), handicaps=handicaps).mixture(25).forms

    assert left(None) == left({"y": 0.0, "z": 0.0})
    assert left(None)
    assert left({"y": 0.0})
    assert not left({"z": 0.0})
    assert not left({"y": 60.0, "z": 0.0})


def test_a_goal_out_of_reach_leaves_nothing_in_integers():
    model = outliers()
    found = Mixer(model, planned(model), CostModel(target()), samples(model, seed=1)).mixture(200)
    assert found.macs == 1.0


def swollen():
    """Between two convolutions, which take most of the time, one channel is made 10,000 times as large as the others, then brought back."""
    gains = np.ones((1, 64, 1, 1), np.float32)
    gains[0, 3] = 1e4
    return network(
        """
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        p = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a)
        k = Mul (p, gains)
        m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (k)
        s = Mul (m, losses)
        t = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (s)
        y = Conv <pads = [1, 1, 1, 1]> (t, w2, b2)
        """,
        inputs="float[1,64,8,8] x",
        outputs="float[1,64,8,8] y",
        gains=-gains,
        losses=-1 / gains,
        w1=(64, 64, 3, 3),
        b1=(64,),
        w2=(64, 64, 3, 3),
        b2=(64,),
    )


def bargain(model):
    return Mixer(model, planned(model), CostModel(target()), samples(model, seed=1)).bargain()


def test_a_bargain_spares_the_values_between_the_products_and_no_product():
    model = swollen()
    found = bargain(model)
    assert planned_db(model, planned(model), samples(model, seed=1)) < 10
    assert {node.op_type for node in model.graph if node.name in found.forms} <= {"Mul", "MaxPool"}
    assert {name for name in found.forms if name.startswith("Mul")}
    assert found.macs == 0.0
    assert found.sqnr_db > 30


def test_no_bargain_where_nothing_is_gained():
    assert not bargain(residual_net()).forms
