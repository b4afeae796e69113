"""Prompts are trained on a frozen base model: alone or many at once, to the same end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

import promptreg
from promptreg.errors import (
    IncompatibleModelError,
    InvalidDataError,
    InvalidValueError,
    TuningError,
)
from promptreg.models import from_files, load_to_train
from promptreg.prompts import Method, Placement, Vote
from promptreg.tuning import (
    Optimizer,
    Outcome,
    Plan,
    Recipe,
    Schedule,
    Tuned,
    read_examples,
    tune,
)
from registry.tuning.conftest import write
from small_bases import Kind, lines

TEMPLATE = "{text} Answer:"
QUICK = Recipe(num_virtual_tokens=5, steps=40, evaluate_every=20, snapshot_step=10)


def model_of(base: Path) -> Any:
    return load_to_train(base, classes=2)


def plan_of(base: Path, data: dict[str, Path], **changes: Any) -> Plan:
    decoder = base.name == "decoder"
    plan = Plan(
        base=from_files(base),
        train=read_examples(data["train"]),
        dev=read_examples(data["dev"]),
        template=TEMPLATE if decoder else None,
    )
    return replace(plan, **changes)


def train(base: Path, plan: Plan, *recipes: Recipe, **how: Any) -> list[Tuned]:
    tokenizer = AutoTokenizer.from_pretrained(base)
    return tune(model_of(base), recipes, plan, tokenizer=tokenizer, **how)


def embeddings(tuned: Tuned, name: str = "prompt_embeddings") -> torch.Tensor:
    assert tuned.prompt is not None
    return torch.frombuffer(bytearray(tuned.prompt.tensors[name].data), dtype=torch.float32)


@pytest.mark.parametrize(
    ("kind", "least"), [("decoder", 0.95), ("encoder-decoder", 0.95), ("encoder", 0.7)]
)
def test_the_defaults_do_well(
    kind: Kind, least: float, bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    plan = plan_of(bases[kind], data, test=read_examples(data["test"]))
    (tuned,) = train(bases[kind], plan, Recipe(patience=0))
    assert tuned.learned
    assert tuned.scores["test"]["accuracy"].value >= least


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder", "encoder"])
def test_a_prompt_ends_as_it_would_alone(
    kind: Kind, bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    """Of other lengths, batches, seeds, optimisers and numbers of steps are those beside it."""
    plan = plan_of(bases[kind], data)
    others = [
        replace(QUICK, num_virtual_tokens=1, seed=7, batch_size=5),
        replace(QUICK, num_virtual_tokens=9, init="random", steps=30),
        replace(QUICK, optimizer=Optimizer.ADAFACTOR),
    ]
    (alone,) = train(bases[kind], plan, QUICK)
    together = train(bases[kind], plan, others[0], QUICK, *others[1:])[1]
    assert [look.step for look in together.looks] == [0, 20, 40]
    # Rounding differs with the shape of a batch, and each step carries it on.
    torch.testing.assert_close(embeddings(together), embeddings(alone), atol=2e-4, rtol=2e-3)
    start = torch.linalg.vector_norm(embeddings(alone, "task_embedding") - embeddings(alone))
    assert start > 100 * torch.linalg.vector_norm(embeddings(together) - embeddings(alone))


def test_the_base_model_is_left_as_it_was(bases: dict[Kind, Path], data: dict[str, Path]) -> None:
    base = bases["encoder"]
    model = model_of(base)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    asked = {name: each.requires_grad for name, each in model.named_parameters()}
    tokenizer = AutoTokenizer.from_pretrained(base)
    tune(model, [QUICK], plan_of(base, data), tokenizer=tokenizer)
    after = dict(model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name: each.requires_grad for name, each in after.items()} == asked
    assert all(each.grad is None for each in after.values())


def test_what_was_trained_scores_the_same_when_it_is_attached(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    """A classifier's new head travels with the prompt, to a base model that has another one."""
    base = bases["encoder"]
    (tuned,) = train(base, plan_of(base, data), QUICK)
    assert tuned.prompt is not None
    assert any("classifier" in name for name in tuned.prompt.tensors)
    dev = read_examples(data["dev"])
    torch.manual_seed(99)
    with promptreg.attach(model_of(base), tuned.prompt, policy="unchecked") as prompted:
        answers = prompted.answer([example.text for example in dev.items])
    right = sum(a.text == e.answer for a, e in zip(answers, dev.items, strict=True))
    assert right / len(dev) == tuned.scores["dev"]["accuracy"].value


def test_the_snapshot_is_the_prompt_at_its_step(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    base = bases["decoder"]
    plan = plan_of(base, data)
    # A constant rate without a warm-up, so that a shorter run takes the same steps.
    recipe = replace(QUICK, schedule=Schedule.CONSTANT, warmup=0.0)
    (whole,) = train(base, plan, recipe)
    (short,) = train(base, plan, replace(recipe, steps=10, evaluate_every=10))
    assert torch.equal(embeddings(whole, "task_embedding"), embeddings(short))
    assert not torch.equal(embeddings(whole, "task_embedding"), embeddings(whole))


def test_targets_are_learned_too(bases: dict[Kind, Path], tmp_path: Path) -> None:
    rows = [{"text": each["text"], "target": each["label"]} for each in lines(2, 200, 1)]
    data = {name: write(tmp_path / name, rows[at::2]) for at, name in enumerate(("train", "dev"))}
    base = bases["encoder-decoder"]
    (tuned,) = train(base, plan_of(base, data), replace(QUICK, steps=150, evaluate_every=50))
    assert tuned.scores["dev"]["exact_match"].value > 0.8
    perplexity = tuned.scores["dev"]["perplexity"]
    assert 1.0 < perplexity.low <= perplexity.value <= perplexity.high < 2.0
    assert tuned.best is not None
    assert tuned.best.score == pytest.approx(1 / perplexity.value, rel=1e-4)


def test_a_run_whose_loss_blows_up_has_diverged(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    base = bases["decoder"]
    (good,) = train(base, plan_of(base, data), replace(QUICK, steps=200))
    assert good.prompt is not None
    wild = replace(QUICK, init="prompt:good@1", learning_rate=3000.0, clip=1e5)
    plan = plan_of(base, data, parents={"good@1": good.prompt})
    tame, broken = train(base, plan, QUICK, wild)
    assert broken.looks[0].score > 0.9  # it starts where the other ended
    assert broken.outcome is Outcome.DIVERGED
    assert not broken.learned
    assert not broken.scores
    assert tame.outcome is Outcome.FINISHED


def test_a_prompt_starts_from_another(bases: dict[Kind, Path], data: dict[str, Path]) -> None:
    base = bases["decoder"]
    (good,) = train(base, plan_of(base, data), replace(QUICK, steps=100, evaluate_every=50))
    assert good.prompt is not None
    plan = plan_of(base, data, parents={"good@1": good.prompt})
    (found,) = train(base, plan, replace(QUICK, init="prompt:good@1", steps=1))
    assert good.best is not None
    assert found.looks[0].score == good.best.score
    assert found.looks[0].loss == pytest.approx(good.best.loss)
    with pytest.raises(TuningError, match="has 5 virtual tokens, and 6 are wanted"):
        train(base, plan, replace(QUICK, init="prompt:good@1", num_virtual_tokens=6))


def test_a_run_that_is_clearly_behind_is_stopped(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    base = bases["decoder"]
    good = replace(QUICK, steps=200, evaluate_every=20)
    slow = replace(good, learning_rate=1e-7)
    recipes = [good, replace(good, seed=1), slow]
    found = train(base, plan_of(base, data, stop_hopeless=True), *recipes)
    assert [each.outcome for each in found] == ["finished", "finished", "hopeless"]
    assert found[2].steps < 200


def test_patience_ends_a_run(bases: dict[Kind, Path], data: dict[str, Path]) -> None:
    base = bases["decoder"]
    stuck = replace(QUICK, learning_rate=1e-8, steps=1000, patience=2)
    (tuned,) = train(base, plan_of(base, data), stuck)
    assert tuned.steps < 1000
    assert tuned.outcome is Outcome.FINISHED


def test_activations_computed_anew_change_nothing(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    base = bases["decoder"]
    (plain,) = train(base, plan_of(base, data), QUICK)
    (anew,) = train(base, plan_of(base, data, recompute=True), QUICK)
    assert torch.equal(embeddings(plain), embeddings(anew))


def test_mixed_precision_learns_as_well(bases: dict[Kind, Path], data: dict[str, Path]) -> None:
    base = bases["decoder"]
    recipe = replace(QUICK, steps=200, evaluate_every=50)
    (tuned,) = train(base, plan_of(base, data, mixed_precision=True), recipe)
    assert tuned.scores["dev"]["accuracy"].value > 0.9
    assert tuned.hyperparameters["precision"] == "mixed"


def test_smaller_passes_change_nothing_but_rounding(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    base = bases["decoder"]
    (large,) = train(base, plan_of(base, data), QUICK)
    (small,) = train(base, plan_of(base, data, columns=20), QUICK)
    torch.testing.assert_close(embeddings(small), embeddings(large), atol=2e-4, rtol=2e-3)


def test_long_texts_are_cut_and_said_to_be(
    bases: dict[Kind, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    base = bases["decoder"]
    rows = [{"text": f"{each['text']} " * 60, "label": each["label"]} for each in lines(2, 20, 1)]
    own = {"train": write(tmp_path / "long", rows), "dev": data["dev"]}
    told = _Told()
    (tuned,) = train(base, plan_of(base, own), replace(QUICK, steps=2), watcher=told)
    # The window is 64 tokens: 5 of the prompt, 1 of the answer.
    assert told.notes == ["20 of the 20 train texts are longer than 58 tokens and were cut"]
    assert tuned.hyperparameters["max_length"] == 58


def test_a_prompt_that_takes_the_whole_window_is_refused(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    base = bases["decoder"]
    with pytest.raises(TuningError, match="whole window of 64"):
        train(base, plan_of(base, data), replace(QUICK, num_virtual_tokens=64))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"text": "w1", "label": "low"}] * 4, "the one label 'low'"),
        (
            [{"text": "w1", "label": "low"}, {"text": "w2", "label": "w3"}],
            "label 'high' is none of those in",
        ),
        (
            [{"text": "w1", "target": "low"}, {"text": "w2", "target": "high"}],
            "it has labels, and .* has targets",
        ),
        ([{"text": "", "label": "low"}, {"text": "w2", "label": "high"}], "line 1.* no tokens"),
    ],
)
def test_examples_that_cannot_be_learned_from_are_refused(
    rows: list[dict[str, str]],
    reason: str,
    bases: dict[Kind, Path],
    data: dict[str, Path],
    tmp_path: Path,
) -> None:
    base = bases["decoder"]
    plan = plan_of(base, {"train": write(tmp_path / "x", rows), "dev": data["dev"]}, template=None)
    with pytest.raises(InvalidDataError, match=reason):
        train(base, plan, QUICK)


def test_labels_that_begin_alike_are_refused(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    base = bases["decoder"]
    plan = plan_of(base, data, labels=("low", "high", "low w1"))
    with pytest.raises(InvalidValueError, match="its tokens begin those of 'low w1'"):
        train(base, plan, QUICK)


def test_stopping_keeps_what_was_reached(bases: dict[Kind, Path], data: dict[str, Path]) -> None:
    base = bases["decoder"]
    told = _Told()
    (tuned,) = train(base, plan_of(base, data), QUICK, watcher=told, stop=lambda: told.steps >= 7)
    assert tuned.outcome is Outcome.INTERRUPTED
    assert tuned.steps == 7
    assert not tuned.learned


class _Told:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps = 0

    def stepped(self, _learners: object) -> None:
        self.steps += 1

    def looked(self, _learner: object) -> None:
        pass

    def noted(self, text: str) -> None:
        self.notes.append(text)


def test_a_model_with_other_weights_is_refused(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    """Its prompts would be registered on a base model that they were not trained on."""
    base = bases["decoder"]
    model = model_of(base)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] += 1
    with pytest.raises(IncompatibleModelError, match=r"layers\.1\.mlp\.down_proj\.weight"):
        tune(model, [QUICK], plan_of(base, data), tokenizer=AutoTokenizer.from_pretrained(base))


def test_recipes_that_are_alike_are_refused(bases: dict[Kind, Path], data: dict[str, Path]) -> None:
    with pytest.raises(InvalidValueError, match="there twice"):
        train(bases["decoder"], plan_of(bases["decoder"], data), QUICK, QUICK)
    with pytest.raises(TuningError, match="there is no recipe"):
        train(bases["decoder"], plan_of(bases["decoder"], data))


@pytest.mark.parametrize("template", ["hello", "{text} {text}"])
def test_a_template_without_one_place_for_the_text_is_refused_first(
    template: str, bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    with pytest.raises(InvalidValueError, match="no one place"):
        plan_of(bases["decoder"], data, template=template)


def test_a_prompt_does_not_start_from_an_ensemble(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    base = bases["decoder"]
    plan = plan_of(base, data)
    (one,) = train(base, plan, replace(QUICK, steps=2))
    assert one.prompt is not None
    ensemble = replace(
        one.prompt,
        method=Method.ENSEMBLE,
        tensors={"members.0.prompt_embeddings": one.prompt.tensors["prompt_embeddings"]},
        members=("a@1", "a@2"),
        vote=Vote.MEAN,
    )
    with pytest.raises(TuningError, match="start from one of its members: a@1, a@2"):
        train(
            base,
            replace(plan, parents={"a@3": ensemble}),
            replace(QUICK, init="prompt:a@3"),
        )


def test_an_answer_longer_than_the_window_is_named(bases: dict[Kind, Path], tmp_path: Path) -> None:
    rows = [{"text": "w1", "target": "w2"}, {"text": "w1", "target": "w2 " * 80}]
    own = {"train": write(tmp_path / "x", rows), "dev": write(tmp_path / "y", rows[:1])}
    with pytest.raises(InvalidDataError, match="line 2: its answer has 81 tokens"):
        train(bases["decoder"], plan_of(bases["decoder"], own), QUICK)


def test_prompts_of_both_places_train_side_by_side(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    base = bases["decoder"]
    behind = replace(QUICK, placement=Placement.AFTER_BOS)
    together, beside = train(base, plan_of(base, data), behind, QUICK)
    (alone,) = train(base, plan_of(base, data), behind)
    assert together.prompt is not None
    assert together.prompt.placement is Placement.AFTER_BOS
    torch.testing.assert_close(embeddings(together), embeddings(alone), atol=2e-4, rtol=2e-3)
    apart = torch.linalg.vector_norm(embeddings(together) - embeddings(beside))
    assert apart > 100 * torch.linalg.vector_norm(embeddings(together) - embeddings(alone))
