"""A profile at another precision than its own."""

import pytest

from diagnostics import TargetError
from targets import load_target
from targets.precision import choose_io, choose_precision, precisions_of
from targets.schema import ACTIVATIONS, IO_DTYPES, PRECISIONS, Target


def test_every_precision_has_a_dtype_of_activations():
    assert set(ACTIVATIONS) == set(PRECISIONS)
    assert all(ACTIVATIONS[precision] in io for precision, io in IO_DTYPES.items())


def test_a_target_takes_its_own_precision_and_those_it_lists():
    assert precisions_of(load_target("cortex-m7")) == ("int8", "int16x8", "auto")
    assert precisions_of(load_target("android-gpu")) == ("float16", "float32")
    chosen = choose_precision(load_target("android-arm64-cpu"), "dynamic_int8").artifact
    assert (chosen.precision, chosen.activations, chosen.calibrated, chosen.holds_integers) == (
        "dynamic_int8",
        "float32",
        False,
        True,
    )


@pytest.mark.parametrize(("precision", "why"), [("int16x8", ""), ("int7", "there is none of that name")])
def test_another_precision_is_refused_by_name(precision, why):
    with pytest.raises(TargetError, match=f"android-gpu does not take precision {precision}") as caught:
        choose_precision(load_target("android-gpu"), precision)
    assert (caught.value.code, caught.value.fix) == ("EW-T006", "choose one of float16, float32")
    assert why in caught.value.why


def test_integer_inputs_follow_the_precision():
    android = choose_io(load_target("android-arm64-cpu"), "uint8")
    assert choose_precision(android, "int16x8").artifact.io_dtype == "int16"
    assert choose_precision(android, "weight_int8").artifact.io_dtype == "float32"
    assert choose_precision(android, "int8").artifact.io_dtype == "uint8"


def test_inputs_that_a_precision_lacks_are_refused():
    android = choose_precision(load_target("android-arm64-cpu"), "int16x8")
    with pytest.raises(TargetError, match="int16x8 has no int8 inputs") as caught:
        choose_io(android, "int8")
    assert (caught.value.code, caught.value.fix) == ("EW-T006", "choose one of float32, int16")


def test_a_profile_cannot_list_what_no_unit_computes():
    data = load_target("android-gpu").model_dump()
    with pytest.raises(ValueError, match=r"artifact\.precisions: no unit has the dtype int16 of int16x8"):
        Target.model_validate({**data, "artifact": {**data["artifact"], "precisions": ("int16x8",)}})
