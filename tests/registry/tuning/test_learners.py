"""A learner takes steps, remembers its best, and notices when it is time to stop."""

import math

import pytest
import torch

from promptreg.tuning import Look, Optimizer, Outcome, Recipe, Schedule
from promptreg.tuning.batching import Order
from promptreg.tuning.learners import Learner
from promptreg.tuning.looking import mark_hopeless
from promptreg.tuning.optimising import learning_rate_factor
from promptreg.tuning.rows import Row


def learner(name: str = "run-1", **fields: object) -> Learner:
    recipe = Recipe(num_virtual_tokens=2, steps=12, evaluate_every=3, **fields)  # type: ignore[arg-type]
    return Learner(
        name=name,
        recipe=recipe,
        rows=[Row(ids=(1, 2), answer=(3,), label=0)],
        order=Order([3], batch_size=1, seed=0),
        parameters={"prompt_embeddings": torch.ones(2, 4)},
        scale=0.5,
    )


def look(step: int, score: float, loss: float = 1.0, train_loss: float | None = None) -> Look:
    return Look(
        step=step,
        score=score,
        low=score - 0.05,
        high=score + 0.05,
        loss=loss,
        train_loss=train_loss,
    )


def step(one: Learner, gradient: float = 1.0, loss: float = 1.0) -> None:
    one.parameters["prompt_embeddings"].grad = torch.full((2, 4), gradient)
    one.update(loss)


def test_adamw_steps_in_units_of_the_embedding() -> None:
    one = learner(learning_rate=0.1, warmup=0.0, schedule=Schedule.CONSTANT)
    step(one)
    moved = 1.0 - one.parameters["prompt_embeddings"].detach()
    torch.testing.assert_close(moved, torch.full((2, 4), 0.05))  # Adam's first step is its rate


def test_adafactor_does_not() -> None:
    one = learner(optimizer=Optimizer.ADAFACTOR, weight_decay=0.0, warmup=0.0)
    step(one)
    moved = 1.0 - one.parameters["prompt_embeddings"].detach()
    torch.testing.assert_close(moved, torch.full((2, 4), 0.3))


@pytest.mark.parametrize("wrong", ["loss", "gradient"])
def test_what_is_no_number_is_not_stepped_along(wrong: str) -> None:
    one = learner()
    if wrong == "loss":
        step(one, loss=math.nan)
    else:
        step(one, gradient=math.inf)
    assert one.outcome is Outcome.DIVERGED
    assert one.step == 0
    assert bool((one.parameters["prompt_embeddings"] == 1).all())


def test_it_looks_at_the_start_at_intervals_and_at_the_end() -> None:
    one = learner()
    due = []
    while one.running:
        if one.due:
            due.append(one.step)
            one.see(look(one.step, 0.5, loss=1.0 - one.step / 100))
        if one.running:
            step(one)
    assert due == [0, 3, 6, 9, 12]
    assert one.outcome is Outcome.FINISHED


def test_it_keeps_the_best_and_among_equals_the_likelier() -> None:
    one = learner(patience=0)
    for score, loss in ((0.5, 1.0), (0.8, 0.7), (0.8, 0.6), (0.8, 0.65), (0.7, 0.1)):
        one.see(look(one.step, score, loss))
        if (score, loss) == (0.8, 0.6):
            kept = one.parameters["prompt_embeddings"].detach().clone()
        step(one)
    assert one.best_look.loss == 0.6
    assert torch.equal(one.best["prompt_embeddings"], kept)


def test_a_loss_that_rises_far_above_its_lowest_is_a_divergence() -> None:
    one = learner()
    one.see(look(0, 0.5))
    one.see(look(3, 0.7, train_loss=0.4))
    one.see(look(6, 0.7, train_loss=1.7))
    assert one.running
    one.see(look(9, 0.7, train_loss=1.9))
    assert one.outcome is Outcome.DIVERGED


@pytest.mark.parametrize("schedule", list(Schedule))
def test_learning_rates_rise_and_fall_as_their_schedule_says(schedule: Schedule) -> None:
    recipe = Recipe(steps=100, warmup=0.1, schedule=schedule)
    rates = [learning_rate_factor(recipe, at) for at in range(100)]
    assert rates[:10] == pytest.approx([(at + 1) / 10 for at in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert (rates[-1] < 0.02) is (schedule is not Schedule.CONSTANT)


def test_only_the_clearly_worse_is_hopeless() -> None:
    runs = [learner(f"run-{number}") for number in range(4)]
    for run, scores in zip(
        runs,
        ((0.9, 0.92, 0.93), (0.85, 0.9, 0.91), (0.8, 0.85, 0.86), (0.5, 0.5, 0.6)),
        strict=True,
    ):
        for at, score in zip((3, 6, 9), scores, strict=True):
            run.see(look(at, score))
    assert [run.name for run in mark_hopeless(runs)] == ["run-3"]
    assert [run.outcome for run in runs[:3]] == [Outcome.RUNNING] * 3


def test_nothing_is_hopeless_between_two_or_early() -> None:
    runs = [learner(f"run-{number}", patience=0) for number in range(2)]
    for run, score in zip(runs, (0.9, 0.1), strict=True):
        for at in (6, 9):
            run.see(look(at, score))
    assert not mark_hopeless(runs)
    early = [learner(f"run-{number}") for number in range(4)]
    for run, score in zip(early, (0.9, 0.9, 0.9, 0.1), strict=True):
        run.see(look(0, score))
        run.see(look(3, score))
    assert not mark_hopeless(early)
