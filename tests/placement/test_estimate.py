"""Estimates: sums of what the cost model says of the nodes, none where a rate is not known, and never called a measurement."""

import numpy as np
import pytest

from exporter.compilers.base import Compiled
from exporter.graph.summary import placements
from exporter.pipeline import legalized
from exporter.placement.estimate import compiler_estimate, estimate, filled, form_of
from exporter.quantization.costs import bytes_moved, kernel_of, macs_of
from targets.cost import CostModel, kernel_table, rates_of
from targets.loader import load_target
from targets.schema import ACTIVATIONS, PRECISIONS, Cost, Unit

PHONE = load_target("android-arm64-cpu")
CHIP = load_target("cortex-m7")


@pytest.fixture
def net(graph_of):
    weight = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
    return graph_of("g (float[1,4,8,8] x) => (float[1,8,8,8] y) { c = Conv<pads = [1,1,1,1]>(x, w) y = Sigmoid(c) }", w=weight)


def estimated(model, target):
    legal = legalized(model, target)
    placed = placements(legal, target)
    return legal.graph, placed, estimate(legal.graph, placed, target)


def test_the_whole_is_the_sum_of_nodes_and_borders(net):
    graph, placed, found = estimated(net, PHONE)
    model = CostModel(PHONE)
    for node, place in zip(graph, placed, strict=True):
        macs = filled(node, macs_of(node), PHONE.pruning.tile)
        own = model.node_us(kernel_of(node), macs, bytes_moved(node, "int8"), "int8")
        assert found.nodes[place.node].us == own
    assert found.units == {"cpu": sum(entry.us for entry in found.nodes.values())}
    assert found.borders_us == model.convert_us(4 * 64) + model.convert_us(
        8 * 64
    )  # float inputs and outputs of an integer artifact
    assert found.total_us == found.units["cpu"] + found.borders_us


@pytest.mark.parametrize(("channels", "group", "wanted"), [(8, 1, 1.0), (1, 1, 8.0), (9, 1, 16 / 9), (8, 2, 2.0), (8, 8, 1.0)])
def test_a_vector_that_is_not_full_takes_as_long_as_a_full_one(graph_of, channels, group, wanted):
    """Of one channel, or of a group of four, a vector of eight computes all eight; depthwise kernels fill theirs."""
    inputs = 8
    weight = np.ones((channels, inputs // group, 3, 3), np.float32)
    model = graph_of(
        f"g (float[1,{inputs},8,8] x) => (float[1,{channels},6,6] y) {{ y = Conv<group = {group}>(x, w) }}", w=weight
    )
    (node,) = legalized(model, PHONE).graph
    assert filled(node, 720, 8) == 720 * wanted
    assert filled(node, 720, 1) == 720


def test_integers_at_the_ends_need_no_conversion(net):
    assert estimated(net, CHIP)[2].borders_us == 0


def test_a_profile_without_a_rate_gives_no_estimate_and_says_which(net):
    bare = PHONE.model_copy(update={"cost": Cost(gmacs_int8=1.0)})
    found = estimated(net, bare)[2]
    assert found.total_us is None
    assert found.units == {}
    assert dict(found.lacking) == {"the profile has no bandwidth of unit cpu": 2}
    bare = PHONE.model_copy(update={"cost": Cost(bandwidth=1.0)})
    assert dict(estimated(net, bare)[2].lacking) == {"the profile has no gmacs_int8 of unit cpu": 1}


def test_a_unit_of_another_kind_has_its_own_rates_or_none(net):
    fast = Cost(gmacs_int8=100.0, bandwidth=10.0)
    npu = Unit(name="npu", kind="npu", operators=("Conv",), dtypes=("int8",))
    mixed = CHIP.model_copy(update={"units": (npu, *CHIP.units), "cost": fast})
    found = estimated(net, mixed)[2]
    assert set(found.units) == {"npu"}
    assert dict(found.lacking) == {"the profile has no bandwidth of unit cpu": 1}
    slow = CHIP.units[0].model_copy(update={"cost": CHIP.cost})
    both = mixed.model_copy(update={"units": (npu, slow)})
    assert rates_of(both, slow) == CHIP.cost
    _, _, found = estimated(net, both)
    assert set(found.units) == {"npu", "cpu"}
    assert found.borders_us == pytest.approx(8 * 64 / 10.0 / 1e3)  # the int8 tensor goes from one to the other


def test_constants_in_slow_memory_take_longer(net):
    slow = CHIP.model_copy(update={"cost": CHIP.cost.model_copy(update={"weights_bandwidth": CHIP.cost.bandwidth / 4})})
    before, after = (estimated(net, target)[2].units["cpu"] for target in (CHIP, slow))
    assert after - before == pytest.approx(3 * (8 * 4 * 9 + 8) / CHIP.cost.bandwidth / 1e3)  # weights and biases


def test_factors_of_cpu_kernels_are_for_cpus_alone():
    npu = Unit(name="npu", kind="npu", dtypes=("int8",))
    assert CostModel(PHONE).factor("PRelu", "int8") == kernel_table("litert").factors["PRelu"]["int8"]
    assert CostModel(PHONE, npu).factor("PRelu", "int8") == 1.0


def test_the_source_says_peaks_or_where_it_was_measured(net):
    assert estimated(net, PHONE)[2].source.startswith(
        "rules: peak rates of the profile android-arm64-cpu, factors of kernels measured with"
    )
    here = PHONE.model_copy(update={"cost": PHONE.cost.model_copy(update={"measured": "this machine"})})
    assert estimated(net, here)[2].source.startswith("calibrated: rates measured on this machine")
    assert estimated(net, CHIP)[2].source == "rules: peak rates of the profile cortex-m7; one node after the other"


def test_a_compilers_cycles_take_the_place_of_the_rules(net):
    _, placed, rules = estimated(net, CHIP)
    cycles = {place.node: 500.0 for place in placed}
    compiled = Compiled("vela", "5", "some-npu", {}, {}, "", (), {"cycles": 1500.0, "clock_hz": 5e8})
    found = compiler_estimate(rules, placed, compiled, cycles)
    assert found.total_us == pytest.approx(3.0)
    assert found.units == {"cpu": pytest.approx(2.0)}
    assert "its own model of the device, not a measurement" in found.source
    assert compiler_estimate(rules, placed, Compiled("vela", "5", "some-npu", {}, {}, ""), cycles) is None
    partly = compiler_estimate(rules, placed, compiled, {**cycles, placed[0].node: None})
    assert partly.total_us is None
    assert dict(partly.lacking) == {"vela counts no cycles of what it leaves to the CPU": 1}


def test_every_precision_has_a_form_of_the_same_activations():
    for precision in PRECISIONS:
        integers = ACTIVATIONS[precision].startswith("int")
        assert (form_of(precision) in ("int8", "int16x8")) == integers
