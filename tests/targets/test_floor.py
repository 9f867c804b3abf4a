"""Floors: what may be written, how releases compare, and which targets a floor is about."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagnostics import UsageError
from targets.floor import Floor, floor_of, lower_floors
from targets.loader import load_target
from targets.schema import Target

NUMBERS = st.integers(0, 99)


@pytest.mark.parametrize("text", ["tflite>=2.11", "tflite >= 2.11.0", " tflite>=2.11 "])
def test_spellings_of_one_floor(text: str) -> None:
    assert Floor.parse(text) == Floor("tflite", (2, 11, 0))
    assert str(Floor.parse(text)) == "tflite>=2.11"


@pytest.mark.parametrize(
    "text", ["", "tflite", "tflite==2.14", "tflite>=", "tflite>=two", "tflite>=2.14.0.1", "tensorrt>=8", "litert>=1.0"]
)
def test_anything_else_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(UsageError, match="is not a runtime's least release") as caught:
        Floor.parse(text)
    assert caught.value.code == "EW-U001"
    assert "RUNTIME>=RELEASE" in caught.value.why
    assert "tflite, onnxruntime" in caught.value.why


@given(NUMBERS, NUMBERS, NUMBERS)
def test_text_and_back(first: int, second: int, third: int) -> None:
    floor = Floor("tflite", (first, second, third))
    assert Floor.parse(str(floor)) == floor


@given(st.tuples(NUMBERS, NUMBERS, NUMBERS), st.tuples(NUMBERS, NUMBERS, NUMBERS))
def test_a_floor_covers_what_is_no_younger(floor: tuple[int, int, int], release: tuple[int, int, int]) -> None:
    assert Floor("tflite", floor).covers(".".join(map(str, release))) == (release <= floor)


def test_absent_numbers_are_zeros() -> None:
    assert Floor.parse("tflite>=2.14").covers("2.14.0")
    assert not Floor.parse("tflite>=2.14").covers("2.14.4")
    assert Floor.parse("tflite>=2.14").covers("2.9.0")  # numbers, not text


def test_profiles_have_floors_or_none() -> None:
    assert floor_of(load_target("android-arm64-cpu")) == Floor("tflite", (2, 17, 0))
    assert floor_of(load_target("x86-64-cpu")) == Floor("onnxruntime", (1, 22, 0))
    assert floor_of(load_target("cortex-m7")) is None


def test_a_floor_replaces_those_of_its_runtime_alone() -> None:
    targets = [load_target(name) for name in ("android-arm64-cpu", "x86-64-cpu")]
    assert [target.artifact.floor for target in lower_floors(targets, "tflite>=2.9")] == ["tflite>=2.9", "onnxruntime>=1.22"]


@pytest.mark.parametrize(("name", "runtime"), [("x86-64-cpu", "onnxruntime"), ("cortex-m7", "tflite-micro")])
def test_a_floor_about_no_target_is_a_contradiction(name: str, runtime: str) -> None:
    with pytest.raises(UsageError, match="is about none of the targets") as caught:
        lower_floors([load_target(name)], "tflite>=2.9")
    assert caught.value.code == "EW-U002"
    assert caught.value.why == f"{name} runs on {runtime}"


def test_an_opset_counts_as_the_first_onnxruntime_that_reads_it() -> None:
    assert floor_of(load_target("rk3588-npu")) == Floor("onnxruntime", (1, 16, 0))
    assert floor_of(load_target("jetson-orin")) == Floor("onnxruntime", (1, 13, 0))


@pytest.mark.parametrize(
    "wrong", [{"format": "tflite", "runtime": "litert"}, {"floor": "onnxruntime>=1.17", "runtime": "onnxruntime"}]
)
def test_an_opset_is_of_onnx_without_a_floor(wrong: dict[str, str]) -> None:
    data = load_target("rk3588-npu").model_dump()
    with pytest.raises(ValueError, match=r"artifact\.opset"):
        Target.model_validate({**data, "artifact": {**data["artifact"], **wrong}})
