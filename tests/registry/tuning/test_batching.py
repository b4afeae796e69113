"""Each step's examples are a function of seed and step; passes hold no more than they may."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptreg.tuning.batching import Order, pack

WIDTHS = [10 + number % 17 for number in range(103)]


def test_an_epoch_shows_each_example_once() -> None:
    order = Order(WIDTHS, batch_size=8, seed=3)
    seen = Counter(at for step in range(12) for at in order.batch(step))
    assert set(seen.values()) == {1}
    assert len(seen) == 96  # what does not fill a batch comes in another epoch


@pytest.mark.parametrize("count", [20, 31, 100, 127, 200])
def test_the_longest_are_seen_as_often_as_the_others(count: int) -> None:
    order = Order(list(range(count)), batch_size=16, seed=0)
    steps = 4000
    seen = Counter(at for step in range(steps) for at in order.batch(step))
    mean = steps * 16 / count
    longest = [seen[at] for at in range(count - max(1, count // 20), count)]
    # Five deviations of as many draws, were they independent.
    assert abs(sum(longest) / len(longest) - mean) < 5 * (mean / len(longest)) ** 0.5
    assert min(seen[at] for at in range(count)) > mean / 2


def test_a_step_draws_the_same_whatever_came_before() -> None:
    through = Order(WIDTHS, batch_size=8, seed=3)
    steps = [through.batch(step) for step in range(40)]
    assert Order(WIDTHS, batch_size=8, seed=3).batch(31) == steps[31]
    assert Order(WIDTHS, batch_size=8, seed=4).batch(31) != steps[31]
    assert steps[0] != steps[12]


def test_rows_of_a_batch_are_of_like_width() -> None:
    order = Order(WIDTHS, batch_size=8, seed=0)
    spread = [
        max(WIDTHS[at] for at in batch) - min(WIDTHS[at] for at in batch)
        for batch in map(order.batch, range(12))
    ]
    assert max(spread) < max(WIDTHS) - min(WIDTHS)


def test_fewer_examples_than_a_batch_are_one_batch() -> None:
    order = Order([3, 4], batch_size=16, seed=0)
    assert sorted(order.batch(0)) == sorted(order.batch(7)) == [0, 1]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 2000))
def test_passes_hold_every_row_once_and_no_more_than_they_may(
    widths: list[int], budget: int
) -> None:
    passes = pack(widths, budget)
    assert sorted(row for rows in passes for row in rows) == list(range(len(widths)))
    for rows in passes:
        assert len(rows) == 1 or len(rows) * max(widths[row] for row in rows) <= budget
