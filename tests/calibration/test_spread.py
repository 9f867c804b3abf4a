"""A few of many, from the whole length of them."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from calibration.reservoir import drawn, spread


@given(st.integers(0, 50), st.integers(0, 60))
def test_items_are_in_order_evenly_spaced_and_no_more_than_asked_for(length, count):
    found = spread(iter(range(length)), count)
    assert found == sorted(set(found))
    assert len(found) == min(length, count)
    gaps = {after - before for before, after in pairwise(found)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_a_half_sees_both_kinds_of_sorted_data():
    assert set(spread(["face"] * 6 + ["wall"] * 6, 4)) == {"face", "wall"}


@given(st.integers(0, 50), st.integers(0, 60))
def test_one_of_each_part_is_drawn(length, count):
    found = drawn(iter(range(length)), count)
    assert len(found) == min(length, count)
    bounds = [index * length // max(len(found), 1) for index in range(len(found) + 1)]
    assert all(low <= item < high for item, (low, high) in zip(found, pairwise(bounds), strict=True))


@given(st.integers(2, 18), st.sampled_from([16, 24, 32]))
def test_what_repeats_itself_is_drawn_in_many_of_its_places(period, count):
    assert len(set(drawn([index % period for index in range(256)], count))) >= period * 0.4
