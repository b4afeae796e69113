"""Scores are those of the textbook, and their intervals hold what they say."""

import random

import pytest

from promptreg.tuning.scores import accuracy, macro_f1


def test_accuracy_has_wilsons_interval() -> None:
    score = accuracy(["a"] * 10, ["a"] * 8 + ["b"] * 2)
    assert score.value == 0.8
    # Wilson 1927, for 8 of 10.
    assert (score.low, score.high) == pytest.approx((0.4901, 0.9433), abs=1e-4)
    assert score.count == 10


def test_accuracy_stays_between_none_and_all() -> None:
    assert accuracy(["a"], ["a"]).high == 1.0
    assert accuracy(["a"], ["b"]).low == 0.0


def test_macro_f1_counts_each_class_alike() -> None:
    wanted = ["a", "a", "a", "b"]
    # a: 2 right of 3 wanted and 2 answered, F1 4/5; b: 1 right of 1 wanted and 2 answered, F1 2/3.
    score = macro_f1(["a", "a", "b", "b"], wanted)
    assert score.value == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert score.low <= score.value <= score.high


def test_an_answer_that_is_no_class_is_wrong_and_no_class_of_its_own() -> None:
    assert macro_f1(["x", "b"], ["a", "b"]).value == pytest.approx(0.5)


def test_a_perfect_score_leaves_nothing_open_to_resampling() -> None:
    score = macro_f1(["a", "b"] * 20, ["a", "b"] * 20)
    assert (score.value, score.low, score.high) == (1.0, 1.0, 1.0)


def test_intervals_hold_the_truth_nineteen_times_of_twenty() -> None:
    rng = random.Random(0)
    held = 0
    for _ in range(400):
        found = ["a" if rng.random() < 0.7 else "b" for _ in range(60)]
        score = accuracy(found, ["a"] * 60)
        held += score.low <= 0.7 <= score.high
    assert 0.92 <= held / 400 <= 0.98
