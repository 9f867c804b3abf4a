"""How far sums go before they end, product by product, in the order of the kernels."""

import numpy as np
import pytest

from exporter.runtimes.espdl_sums import greatest_sum, reachable_sum


def by_hand(x, weight, bias, strides, pads, dilations, group) -> int:
    """One product after another, as the manual has it."""
    (top, left, bottom, right), (outputs, inputs) = pads, weight.shape[:2]
    padded = np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)])
    height, width = (
        (padded.shape[2 + axis] - (weight.shape[2 + axis] - 1) * dilations[axis] - 1) // strides[axis] + 1 for axis in (0, 1)
    )
    greatest = 0
    for n, row, column, out in np.ndindex(len(x), height, width, outputs):
        total = int(bias[out])
        greatest = max(greatest, abs(total))
        first = out // (outputs // group) * inputs
        for dy, dx, c in np.ndindex(*weight.shape[2:], inputs):
            y, z = row * strides[0] + dy * dilations[0], column * strides[1] + dx * dilations[1]
            total += int(padded[n, first + c, y, z]) * int(weight[out, c, dy, dx])
            greatest = max(greatest, abs(total))
    return greatest


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize(("strides", "pads", "dilations"), [((1, 1), (0, 0, 0, 0), (1, 1)), ((2, 1), (1, 0, 2, 1), (1, 2))])
def test_sums_are_followed_in_the_order_of_the_kernels(strides, pads, dilations, group):
    random = np.random.default_rng(group)
    x = random.integers(-128, 128, (2, 4, 5, 6))
    weight, bias = random.integers(-127, 128, (8, 4 // group, 3, 2)), random.integers(-9000, 9000, 8)
    found = greatest_sum(x, weight, bias, strides, pads, dilations, group)
    assert found == by_hand(x, weight, bias, strides, pads, dilations, group)
    assert found <= reachable_sum(weight, bias)


def test_a_sum_that_comes_back_was_as_great_on_its_way():
    x = np.full((1, 80, 1, 1), 100)
    weight = np.repeat([100, -100], 40).reshape(1, 80, 1, 1)
    assert greatest_sum(x, weight, np.zeros(1, int)) == 400_000


def test_a_fully_connected_layer_has_no_window():
    x, weight = np.array([[3, -2], [1, 1]]), np.array([[5, 4], [-7, 2], [0, 1]])
    assert greatest_sum(x, weight, np.array([1, 0, -30])) == 32
