import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_bench import assert_legalized, assert_torch_computes_it, builtins, lowered, node_of, single
from typed_bench import Fixed, everywhere, values

from exporter.graph.coverage import unsupported
from exporter.graph.legalize import legalize
from exporter.ops.base import Channels, Refused, Role, operator_of
from exporter.ops.pad import amounts

# Steps of its scale that a moved number is off behind the bench's LeakyRelu: 0.5 for its rounding, 1 for the input's, twice as coarse.
MOVED = 1.51


def pad(pads, shape=(1, 2, 4, 5), value=None, axes=None, **attributes):
    inputs = [np.array(pads, np.int64)]
    if value is not None or axes is not None:
        inputs.append(None if value is None else np.float32(value))
    if axes is not None:
        inputs.append(np.array(axes, np.int64))
    return single("Pad", shape, *(np.asarray(entry) if entry is not None else None for entry in inputs), **attributes)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(-2, 3), min_size=8, max_size=8),
    st.sampled_from(["constant", "reflect", "edge"]),
    st.sampled_from([None, 0.0, -1.5]),
)
def test_every_padding_is_simulated_and_legalized_exactly(pads, mode, value):
    shape = (3, 3, 5, 4)
    for axis, length in enumerate(shape):
        whole = length + min(pads[axis], 0) + min(pads[axis + 4], 0)
        assume(whole >= 1)
        if mode == "reflect":
            assume(max(pads[axis], pads[axis + 4]) < whole)
        # onnxruntime reads outside of the input where such a mode crops: ask it for padding alone there.
        assume(mode == "constant" or min(pads[axis], pads[axis + 4]) >= 0)
    model = pad(pads, shape, value if mode == "constant" else None, mode=mode)
    assert_torch_computes_it(model, atol=0)
    assert_legalized(model, atol=0)
    assert unsupported(legalize(model, "tflite"), "lower") == []


def test_axes_may_be_named():
    model = pad([1, 2, 3, 0], axes=[-1, 2])
    assert amounts(node_of(model)) == ((0, 0, 2, 1), (0, 0, 0, 3))
    assert_torch_computes_it(model, atol=0)


def test_what_it_becomes():
    assert assert_legalized(pad([0] * 8)) == ["Identity"]
    assert assert_legalized(pad([0, 0, 1, 1, 0, 0, 0, 0])) == ["Pad"]
    assert assert_legalized(pad([0, 0, -1, 1, 0, 0, 0, 0])) == ["Slice", "Pad"]
    assert assert_legalized(pad([0, 0, -1, 0, 0, 0, 0, -2])) == ["Slice"]
    assert assert_legalized(pad([0, 0, 2, 1, 0, 0, 0, 3], mode="edge")) == ["Pad", "Pad", "Pad"]
    assert assert_legalized(pad([0, 0, 2, 1, 0, 0, 0, 3], mode="edge"), "onnx") == ["Pad"]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("pads", "more", "builtin"),
    [
        ([0, 0, 1, 2, 0, 0, 3, 0], {}, "PAD"),
        ([0, 1, 1, 2, 0, 0, 3, 0], {"value": -1.5}, "PADV2"),
        ([0, 0, 1, 2, 0, 0, 3, 0], {"mode": "reflect"}, "MIRROR_PAD"),
        ([0, 0, 1, 1, 0, 0, 0, 1], {"mode": "edge"}, "MIRROR_PAD"),
    ],
    ids=["zeros", "value", "reflect", "edge"],
)
def test_tflite_computes_it_at_the_lowest_version(pads, more, builtin, last):
    found = lowered(pad(pads, **more), last=last)
    assert builtins(found) == [(builtin, 1)]
    assert found.errors["y0"] == 0
    found = lowered(pad(pads, leaky=True, **more), "int8", last=last)
    assert builtins(found) == [(builtin, 2)]
    assert found.steps["y0"] < MOVED


def test_five_axes_need_version_4():
    model = pad([0, 0, 1, 0, 0, 0, 0, 0, 1, 0], (1, 2, 3, 2, 2))
    assert builtins(lowered(model)) == [("PAD", 4)]
    assert lowered(model).errors["y0"] == 0


def test_the_value_has_an_encoding_unless_it_is_zero():
    def roles(model):
        return [rule.role for rule in operator_of(node_of(model)).quantize(node_of(model)).inputs]

    assert roles(pad([0] * 8, value=0)) == [Role.ACTIVATION, Role.PARAMETER, Role.PARAMETER]
    assert roles(pad([0] * 8, value=2)) == [Role.ACTIVATION, Role.PARAMETER, Role.ACTIVATION]
    assert operator_of(node := node_of(pad([0] * 8))).quantize(node).shared


def test_padded_axes_stay_whole():
    node = node_of(pad([0, 0, 1, 0, 0, 0, 0, 0]))
    coupling = operator_of(node).couple(node)
    assert (Channels("in", 0, 1, 2), Channels("out", 0, 1, 2)) in coupling.ties
    assert coupling.blocked == (Channels("in", 0, 2, 4), Channels("out", 0, 2, 5))


def test_refusals_say_why():
    wide = single("Pad", (2,) * 6, np.array([1, 0, 1, 0, 1, 0] * 2, np.int64))
    assert [r.reason for r in unsupported(legalize(wide, "tflite"), "lower")] == ["Pad: Pad has at most 5 axes."]
    computed = single("Pad", (1, 2), np.array([0, 1, 0, 0], np.int64), ())
    with pytest.raises(Refused, match="the value of Pad"):
        operator_of(node_of(computed)).quantize(node_of(computed))


MODES = ["constant", "reflect", "edge", "wrap"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int32", "int64", "bool"])
def test_every_mode_in_every_dtype(mode, dtype):
    everywhere("Pad", values(dtype, 2, 4, 5), Fixed([0, 2, 1, 0, 1, 3]), mode=mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4, 4, 3), (1, 2, 2, 2, 4, 3)], ids=str)
def test_every_mode_at_every_rank(mode, shape):
    amounts = [0] * (len(shape) - 1) + [2] + [0] * (len(shape) - 1) + [1]
    everywhere("Pad", values("float32", *shape), Fixed(amounts), mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_crops_where_amounts_are_negative(mode):
    everywhere("Pad", values("float32", 4, 5), Fixed([-1, 2, 1, -2]), mode=mode)


def test_a_constant_on_chosen_axes():
    everywhere("Pad", values("int32", 2, 3, 4), Fixed([1, 2, 0, 1]), Fixed(7, np.int32), Fixed([0, -1]))
