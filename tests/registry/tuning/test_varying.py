"""Which runs may be compared, and in which words they are told apart."""

from datetime import UTC, datetime

import pytest

from promptreg.prompts import Scalar
from promptreg.tuning.runs import Metric, Run
from promptreg.tuning.varying import best_setting, describe, settings_that_vary

ACCURACY = Metric(name="test_accuracy")


def run(test: float = 0.5, *, length: int = 4, dev: float | None = None, **chosen: Scalar) -> Run:
    scores = {"test_accuracy": test} | ({} if dev is None else {"dev_accuracy": dev})
    return Run(
        ref="t@1",
        base="small",
        parameters=100,
        method="prompt-tuning",
        length=length,
        init="vocab",
        hyperparameters=chosen,
        metrics=scores,
        by="ada",
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_seeds_and_machines_are_no_settings() -> None:
    runs = [
        run(length=1, seed=0, device="cpu"),
        run(length=4, seed=1, device="cuda", test_data="sha256:1"),
    ]
    (setting,) = settings_that_vary(runs, ACCURACY, "length", most=6)
    assert list(setting.runs) == [1, 4]
    assert setting.fixed == {"method": "prompt-tuning", "base": "small", "init": "vocab"}


def test_only_what_differs_in_one_thing_is_compared() -> None:
    runs = [run(length=length, lr=lr) for lr in (0.1, 0.3) for length in (16, 1, 4)]
    runs += [run(length=8, lr=0.5)]
    settings = settings_that_vary(runs, ACCURACY, "length", most=6)
    assert [list(each.runs) for each in settings] == [[1, 4, 16], [1, 4, 16]]
    assert describe([each.fixed for each in settings]) == ["lr 0.1", "lr 0.3"]


def test_the_settings_with_the_most_values_are_kept_then_those_that_score_best() -> None:
    runs = [run(0.9, length=length, lr=0.1) for length in (1, 2)]
    runs += [run(0.5, length=length, lr=0.2) for length in (1, 2, 3)]
    runs += [run(0.4, length=length, lr=0.3) for length in (1, 2)]
    kept = settings_that_vary(runs, ACCURACY, "length", most=2)
    assert [each.fixed and each.fixed["lr"] for each in kept] == [0.1, 0.2]


def test_where_nothing_differs_alone_the_best_at_each_value_stand_in() -> None:
    runs = [run(0.5, length=1, lr=0.1), run(0.6, length=4, lr=0.2), run(0.7, length=4, lr=0.3)]
    (setting,) = settings_that_vary(runs, ACCURACY, "length", most=6)
    assert setting.fixed is None
    assert {length: [each.metrics for each in some] for length, some in setting.runs.items()} == {
        1: [{"test_accuracy": 0.5}],
        4: [{"test_accuracy": 0.7}],
    }


def test_one_value_is_nothing_to_compare() -> None:
    assert settings_that_vary([run(), run(lr=0.3)], ACCURACY, "length", most=6) == []
    assert settings_that_vary([], ACCURACY, "length", most=6) == []


def test_the_best_setting_is_the_best_on_the_mean_of_its_seeds() -> None:
    steady = [run(0.8, lr=0.1, seed=seed) for seed in (0, 1)]
    lucky = [run(0.95, lr=0.3, seed=0), run(0.4, lr=0.3, seed=1)]
    assert best_setting([*lucky, *steady], ACCURACY) == steady


def test_the_best_setting_is_chosen_on_dev_data_if_all_have_it() -> None:
    good, lucky = run(0.7, dev=0.9, lr=0.1), run(0.9, dev=0.7, lr=0.3)
    assert best_setting([good, lucky], ACCURACY) == [good]
    unmeasured = run(0.8, lr=0.5)
    assert best_setting([good, lucky, unmeasured], ACCURACY) == [lucky]


def test_the_lowest_perplexity_is_the_best() -> None:
    metric = Metric(name="test_perplexity")
    runs = [
        Run(
            base="small",
            parameters=1,
            method="lora",
            hyperparameters={"lr": value},
            metrics={"test_perplexity": value},
            by="ada",
            at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for value in (9.0, 3.0, 27.0)
    ]
    assert best_setting(runs, metric) == [runs[1]]


@pytest.mark.parametrize(
    ("settings", "labels"),
    [
        ([{"method": "prompt-tuning", "length": 4}], [""]),
        ([{"length": 1}, {"length": 20}], ["1 token", "20 tokens"]),
        ([{"init": "a" * 40, "lr": 1}, {"init": "b", "lr": 1}], [f"init {'a' * 27}…", "init b"]),
        ([{"learning_rate": 0.1}, {}], ["lr 0.1", ""]),
        (
            [{"method": "prompt-tuning", "length": n, "lr": 1} for n in (1, 2)]
            + [{"method": "model-tuning", "lr": lr} for lr in (1, 2)],
            ["1 token", "2 tokens", "model tuning, lr 1", "model tuning, lr 2"],
        ),
        ([{"init": "a" * 40}, {"init": "a" * 41}], [f"init {'a' * 27}… ({n})" for n in (1, 2)]),
        (
            [dict.fromkeys("abcde", n) for n in (1, 2)],
            ["a 1, b 1, c 1, d 1, …", "a 2, b 2, c 2, d 2, …"],
        ),
    ],
)
def test_settings_are_told_apart_by_what_they_differ_in(
    settings: list[dict[str, Scalar]], labels: list[str]
) -> None:
    assert describe(settings) == labels


def test_one_setting_alone_has_a_name_where_it_needs_one() -> None:
    assert describe([{"method": "model-tuning", "lr": 1}], names=True) == ["model tuning"]
