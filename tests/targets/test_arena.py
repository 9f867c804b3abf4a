"""The planner of activations: its laws, its distance from the best layout of small cases, and the runtime's own habits."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.arena import ALIGNMENT, Buffer, Layout, aligned, greedy, live


@st.composite
def buffers(draw: st.DrawFn, most: int = 12) -> list[Buffer]:
    spans = draw(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(1, 20)), max_size=most))
    return [Buffer(str(index), 16 * size, first, first + more) for index, (first, more, size) in enumerate(spans)]


def least(given: list[Buffer]) -> int:
    """The best layout's bytes: in some order of placing, each into the lowest gap, it comes out (any layout slides down to one)."""
    best = sum(buffer.bytes for buffer in given)
    for order in permutations(range(len(given))):
        offsets: dict[int, int] = {}
        for index in order:
            at = 0
            for other in sorted(offsets, key=offsets.__getitem__):
                if given[other].meets(given[index]) and offsets[other] < at + given[index].bytes:
                    at = max(at, offsets[other] + given[other].bytes)
            offsets[index] = at
        best = min(best, max((offsets[index] + given[index].bytes for index in offsets), default=0))
    return best


@given(buffers())
def test_what_exists_at_once_does_not_overlap(given: list[Buffer]) -> None:
    layout = greedy(given)
    for index, (at, buffer) in enumerate(zip(layout.offsets, given, strict=True)):
        assert 0 <= at <= at + buffer.bytes <= layout.bytes
        for other in range(index):
            if buffer.meets(given[other]):
                assert at + buffer.bytes <= layout.offsets[other] or layout.offsets[other] + given[other].bytes <= at


@given(buffers(most=6))
@settings(max_examples=60, deadline=None)
def test_no_layout_is_smaller_than_the_best_nor_the_best_than_what_is_alive(given: list[Buffer]) -> None:
    best = least(given)
    assert max(live(given), default=0) <= best <= greedy(given).bytes


def test_the_runtimes_planner_is_not_always_the_best() -> None:
    """Four layers in a chain, of which 48 bytes are alive at once; what counts is that we foretell what the runtime does."""
    chain = [Buffer(str(step), size, step, step + 1) for step, size in enumerate((32, 16, 16, 32))]
    assert (least(chain), greedy(chain).bytes) == (48, 64)


def test_largest_first_and_of_equal_ones_the_later() -> None:
    given = [Buffer("a", 16, 0, 1), Buffer("b", 32, 1, 1), Buffer("c", 16, 1, 2)]
    assert greedy(given) == Layout((48, 0, 32), 64)


def test_a_gap_between_two_is_taken() -> None:
    given = [Buffer("a", 64, 0, 9), Buffer("b", 48, 0, 3), Buffer("c", 32, 2, 9), Buffer("d", 16, 5, 9)]
    layout = greedy(given)
    assert layout.offsets == (0, 64, 112, 64)
    assert layout.bytes == max(live(given)) == 144


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, ALIGNMENT), (16, 16), (17, 32)])
def test_sizes_are_rounded_up(count: int, expected: int) -> None:
    assert aligned(count) == expected


def test_nothing_takes_nothing() -> None:
    assert greedy([]) == Layout((), 0)
    assert live([]) == []
