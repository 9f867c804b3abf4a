"""The sweep of docs/micro_kernels.md on a few families: what it counts, and what it says of it."""

from __future__ import annotations

import pytest

from exporter.runtimes import available
from tools.micro_kernels import Tally, page, sweep

pytestmark = pytest.mark.skipif(not available("tflite-micro").present, reason="needs tflite-micro")


def test_all_agrees_as_moved_and_families_that_the_profile_lacks_are_left_out() -> None:
    found = sweep(["LEAKY_RELU", "GELU"], 3)
    assert set(found) == {"LEAKY_RELU int8", "LEAKY_RELU int16"}
    assert [(tally.operators, tally.after, tally.reason) for tally in found.values()] == [(3, 0, "")] * 2
    assert found["LEAKY_RELU int8"].elements == found["LEAKY_RELU int16"].elements > 0


def test_a_row_says_what_is_left_by_how_much_and_why() -> None:
    text = page({"SOFTMAX int16": Tally(40, 85_084, 9, 7, 1.0, "tables"), "TANH int8": Tally(40, 25_452, 3)}, 40)
    assert "| `SOFTMAX` | int16 | 40 | 85,084 | 9 | 7 by 1 | tables |" in text
    assert "| `TANH` | int8 | 40 | 25,452 | 3 | 0 |  |" in text
