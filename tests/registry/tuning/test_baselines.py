"""What prompt tuning is compared with is measured on the same examples, and leaves the base model as it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from promptreg.errors import TuningError
from promptreg.models import from_files, load_to_train
from promptreg.tuning import Plan, Recipe, prompt_design, read_examples, tune
from promptreg.tuning.baselines import _draw
from registry.tuning.conftest import write
from small_bases import Kind


def plan_of(base: Path, data: dict[str, Path], **changes: Any) -> Plan:
    plan = Plan(
        base=from_files(base), train=read_examples(data["train"]), dev=read_examples(data["dev"])
    )
    return replace(plan, **changes)


def design(base: Path, plan: Plan, shots: int, seed: int = 0) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = load_to_train(base, classes=2)
    return prompt_design(model, plan, shots=shots, seed=seed, tokenizer=tokenizer)


def test_the_instruction_that_the_base_knows_is_a_good_design(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    for kind, written in (("decoder", "way2 {text} Answer:"), ("encoder-decoder", "way2 {text}")):
        base = bases[kind]  # type: ignore[index]
        good = design(base, plan_of(base, data, template=written), 0)["dev"]["accuracy"]
        other = design(base, plan_of(base, data, template=written.replace("2", "3")), 0)
        assert good.value > 0.95 > other["dev"]["accuracy"].value


def test_zero_shot_is_what_answering_with_the_template_is(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    """Beside a prompt of no effect: one that is the template's own first word."""
    base = bases["decoder"]
    model = load_to_train(base, classes=2)
    dev = read_examples(data["dev"])
    scores = design(base, plan_of(base, data, template="way2 {text} Answer: "), 0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    right = 0
    for example in dev.items:
        ids = tokenizer(f"way2 {example.text} Answer:", return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model(ids).logits[0, -1]
        likelier = logits[tokenizer("high").input_ids[0]] > logits[tokenizer("low").input_ids[0]]
        right += ("high" if likelier else "low") == example.answer
    assert scores["dev"]["accuracy"].value == right / len(dev)


def test_shots_take_the_labels_in_turn(data: dict[str, Path]) -> None:
    train = read_examples(data["train"])
    drawn = _draw(train, 7, seed=0)
    counts = [sum(each.answer == label for each in drawn) for label in train.labels]
    assert sorted(counts) == [3, 4]
    assert len({each.line for each in drawn}) == 7
    assert _draw(train, 7, seed=0) == drawn != _draw(train, 7, seed=1)


def test_more_shots_than_examples_are_all_of_them(tmp_path: Path) -> None:
    rows = [
        {"text": "w1", "label": "low"},
        {"text": "w2", "label": "low"},
        {"text": "w3", "label": "high"},
    ]
    train = read_examples(write(tmp_path / "x", rows))
    assert len(_draw(train, 9, seed=0)) == 3


def test_shots_that_do_not_fit_are_refused(bases: dict[Kind, Path], data: dict[str, Path]) -> None:
    base = bases["decoder"]
    with pytest.raises(TuningError, match="whole window of 64"):
        design(base, plan_of(base, data, template="{text} Answer:"), 20)


def test_a_classifier_reads_no_written_prompt(
    bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    with pytest.raises(TuningError, match="answers with classes"):
        design(bases["encoder"], plan_of(bases["encoder"], data), 0)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_model_tuning_learns_and_gives_the_weights_back(
    kind: Kind, bases: dict[Kind, Path], data: dict[str, Path]
) -> None:
    base = bases[kind]
    model = load_to_train(base, classes=2)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    plan = plan_of(
        base, data, whole_model=True, template="{text} Answer:" if kind == "decoder" else None
    )
    recipe = Recipe(steps=200, evaluate_every=50, learning_rate=2e-3)
    (tuned,) = tune(model, [recipe], plan, tokenizer=AutoTokenizer.from_pretrained(base))
    assert tuned.prompt is None
    assert tuned.scores["dev"]["accuracy"].value > 0.9
    after = dict(model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert tuned.learned
