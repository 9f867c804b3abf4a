"""The cost model: rates of the profile, factors of the runtime, and a profile's own factors before those."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets import list_targets, load_target, to_toml
from targets.cost import CostModel, kernel_table
from targets.schema import Target

PHONE = load_target("android-arm64-cpu")


def _with_kernels(target: Target, kernels: dict[str, dict[str, float]]) -> Target:
    data = target.model_dump()
    return Target.model_validate({**data, "cost": {**data["cost"], "kernels": kernels}})


def test_a_convolution_takes_the_time_of_its_multiply_accumulates() -> None:
    model = CostModel(_with_kernels(PHONE, {"Conv": {"int8": 1.0, "float32": 1.0}}))
    dispatch = kernel_table("litert").dispatch_us
    assert PHONE.cost.gmacs_int8 is not None
    assert model.node_us("Conv", 10**9, 0, "int8") == pytest.approx(1e6 / PHONE.cost.gmacs_int8 + dispatch)
    assert model.node_us("Conv", 10**9, 0, "int8") < model.node_us("Conv", 10**9, 0, "float32")


@pytest.mark.parametrize("kernel", ["HardSwish", "PRelu", "Abs", "Softmax"])
def test_litert_has_plain_loops_that_are_slower_in_integers_than_vector_code_is_in_float(kernel: str) -> None:
    model, elements = CostModel(PHONE), 400_000
    there_and_back = 2 * model.convert_us(elements)
    assert model.node_us(kernel, 0, 2 * elements, "int8") > model.node_us(kernel, 0, 8 * elements, "float32") + there_and_back


def test_what_xnnpack_does_in_integers_stays_in_integers() -> None:
    model, elements = CostModel(PHONE), 400_000
    for kernel in ("Sigmoid", "Relu", "Add"):
        assert model.node_us(kernel, 0, 2 * elements, "int8") < model.node_us(kernel, 0, 8 * elements, "float32")


def test_a_profiles_own_factor_comes_first() -> None:
    model = CostModel(_with_kernels(PHONE, {"PRelu": {"int8": 1.5}}))
    assert model.factor("PRelu", "int8") == 1.5
    assert model.factor("PRelu", "float32") == kernel_table("litert").factors["PRelu"]["float32"]
    assert model.factor("NoSuchKernel", "int8") == 1.0


def test_a_profile_with_factors_is_written_and_read_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("targets") / "own.toml"
    own = _with_kernels(PHONE, {"PRelu": {"int8": 1.5, "float32": 0.5}})
    path.write_text(to_toml(own), encoding="utf-8")
    assert load_target(path) == own


@given(st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 10**6))
def test_more_work_takes_no_less_time(macs: int, moved: int, more: int) -> None:
    model = CostModel(PHONE)
    assert model.node_us("Conv", macs + more, moved + more, "int8") >= model.node_us("Conv", macs, moved, "int8") > 0


def test_every_runtime_has_a_table_or_none() -> None:
    for target in list_targets():
        table = kernel_table(target.artifact.runtime)
        assert all(factor > 0 for factors in table.factors.values() for factor in factors.values())
    assert kernel_table("tflite-micro").factors == {}
