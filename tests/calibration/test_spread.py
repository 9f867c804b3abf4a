"""A few of many, from the whole length of them."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from calibration.reservoir import spread


@given(st.integers(0, 50), st.integers(0, 60))
def test_items_are_in_order_one_from_each_part_and_no_more_than_asked_for(length, count):
    found = spread(iter(range(length)), count)
    assert found == sorted(set(found))
    assert len(found) == min(length, count)
    bounds = [index * length // max(len(found), 1) for index in range(len(found) + 1)]
    assert all(low <= item < high for item, (low, high) in zip(found, pairwise(bounds), strict=True))


def test_a_half_sees_both_kinds_of_sorted_data():
    assert set(spread(["face"] * 6 + ["wall"] * 6, 4)) == {"face", "wall"}


@given(st.integers(2, 18), st.sampled_from([16, 24, 32]))
def test_what_repeats_itself_is_seen_in_many_of_its_places(period, count):
    found = spread([index % period for index in range(256)], count)
    assert len(set(found)) >= period * 0.4
