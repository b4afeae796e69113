"""Prompts are measured on examples, several of them in one pass."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import promptreg
from promptreg import PromptedModel, artifacts
from promptreg.errors import InvalidDataError, TuningError
from promptreg.prompts import Scalar
from promptreg.tuning import Examples, evaluate, read_examples
from promptreg_cli.demo import base_directory, prompt_directory


@pytest.fixture
def prompted() -> Iterator[PromptedModel]:
    base: Any = AutoModelForCausalLM.from_pretrained(base_directory(), dtype="float32")
    with promptreg.attach(base, policy="unchecked") as prompted:
        for name in ("reverse", "shout"):
            prompt = artifacts.read(prompt_directory(name))
            prompted.add(replace(prompt, template="{text} ->"), name=name)
            labels = replace(prompt, template="{text}?", labels=("yes", "no"))
            prompted.add(labels, name=f"{name}-labels")
        yield prompted


WORDS = ("garden", "stone", "leaf", "river")


@contextmanager
def registered(hyperparameters: dict[str, Scalar]) -> Iterator[PromptedModel]:
    """Yield a base model with the prompt 'reverse' as ``plain``, and as ``trained`` with hyperparameters."""
    prompt = replace(artifacts.read(prompt_directory("reverse")), template="{text} ->")
    at_hand = promptreg.from_files(base_directory())
    with promptreg.Registry.open() as registry:
        registry.push(prompt, task="plain", base=at_hand)
        registry.push(prompt, task="trained", base=at_hand, hyperparameters=hyperparameters)
        pulled = [registry.pull(task) for task in ("plain", "trained")]
    model: Any = AutoModelForCausalLM.from_pretrained(base_directory())
    with promptreg.attach(model) as prompted:
        for each in pulled:
            prompted.add(each, name=each.version.task)
        yield prompted


def targets(path: Path, *texts: str) -> Examples:
    rows = [{"text": text, "target": text[:3]} for text in texts]
    return read_examples(write(path / "x", *rows))


def write(path: Path, *lines: dict[str, str]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_targets_are_matched_exactly(prompted: PromptedModel, tmp_path: Path) -> None:
    words = ["garden", "stone", "leaf", "river"]
    rows = [{"text": word, "target": f" {word[::-1]} "} for word in words]
    examples = read_examples(write(tmp_path / "x", *rows))
    seen: list[tuple[int, int]] = []
    found = evaluate(
        prompted,
        ["reverse", "shout", None],
        examples,
        max_new_tokens=12,
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert found["reverse"].scores["exact_match"].value >= 0.75
    assert found["shout"].scores["exact_match"].value == 0.0
    assert found[None].scores["exact_match"].count == 4
    assert seen[-1] == (12, 12)


def test_labels_are_scored_as_answered(prompted: PromptedModel, tmp_path: Path) -> None:
    words = ["garden", "stone", "leaf", "river"]
    answers = prompted.answer(words, prompts=["reverse-labels"] * 4)
    rows = [
        {"text": word, "label": answer.text} for word, answer in zip(words, answers, strict=True)
    ]
    rows[0]["label"] = {"yes": "no", "no": "yes"}[rows[0]["label"]]
    examples = read_examples(write(tmp_path / "x", *rows))
    found = evaluate(prompted, ["reverse-labels", "shout-labels"], examples)
    assert set(found["reverse-labels"].scores) == {"accuracy", "macro_f1"}
    assert found["reverse-labels"].scores["accuracy"].value == 0.75


def test_a_label_that_a_prompt_does_not_know_is_named(
    prompted: PromptedModel, tmp_path: Path
) -> None:
    rows = [{"text": "a", "label": "yes"}, {"text": "b", "label": "maybe"}]
    examples = read_examples(write(tmp_path / "x", *rows))
    with pytest.raises(
        InvalidDataError, match="line 2: its label 'maybe' is none of shout-labels's: yes, no"
    ):
        evaluate(prompted, ["shout-labels"], examples)


def test_targets_are_none_for_a_prompt_that_chooses_labels(
    prompted: PromptedModel, tmp_path: Path
) -> None:
    wrong = "it has targets, and shout-labels chooses from its labels: yes, no"
    with pytest.raises(InvalidDataError, match=wrong):
        evaluate(prompted, ["shout-labels"], targets(tmp_path, *WORDS))


def test_labels_may_be_written_by_a_prompt_that_has_none(
    prompted: PromptedModel, tmp_path: Path
) -> None:
    rows = [{"text": word, "label": word[::-1]} for word in WORDS]
    found = evaluate(prompted, ["reverse"], read_examples(write(tmp_path / "x", *rows)))
    assert found["reverse"].scores["accuracy"].value >= 0.75


def test_perplexity_is_near_one_where_the_target_was_learned(
    prompted: PromptedModel, tmp_path: Path
) -> None:
    rows = [{"text": word, "target": word[::-1]} for word in WORDS]
    examples = read_examples(write(tmp_path / "x", *rows))
    found = evaluate(prompted, ["reverse", "shout"], examples)
    assert 1 <= found["reverse"].scores["perplexity"].value < 1.1
    assert found["shout"].scores["perplexity"].value > 1000


def test_the_size_of_batches_changes_no_score(prompted: PromptedModel, tmp_path: Path) -> None:
    examples = targets(tmp_path, *WORDS)
    one = evaluate(prompted, ["reverse", "shout"], examples, batch_size=1)
    many = evaluate(prompted, ["reverse", "shout"], examples)
    for name in ("reverse", "shout"):
        assert one[name].scores["exact_match"] == many[name].scores["exact_match"]
        own, others = (each[name].scores["perplexity"].value for each in (one, many))
        assert own == pytest.approx(others, rel=1e-3)


def test_texts_are_cut_to_what_a_prompt_was_trained_with(tmp_path: Path) -> None:
    examples = targets(tmp_path, *WORDS, "stone" * 4)
    with registered({"max_length": 12}) as prompted:
        found = evaluate(prompted, ["trained", "plain"], examples)
        # As if the text were so long, with the start, the arrow's two tokens, and its space.
        shorter = evaluate(prompted, ["plain"], targets(tmp_path, *WORDS, ("stone" * 4)[:8]))
    assert (found["trained"].max_length, found["trained"].cut) == (12, 1)
    assert found["plain"].cut == shorter["plain"].cut == 0
    assert found["trained"].scores == shorter["plain"].scores != found["plain"].scores


def test_whoever_asks_may_cut_otherwise(tmp_path: Path) -> None:
    examples = targets(tmp_path, *WORDS, "stone" * 4)
    with registered({"max_length": 12}) as prompted:
        for longest, count in ((50, 0), (12, 1), (9, 2)):
            found = evaluate(prompted, ["plain", "trained"], examples, max_length=longest)
            assert {each.cut for each in found.values()} == {count}


@pytest.mark.parametrize("said", ["long", True, 0, 12.0])
def test_a_length_that_is_none_is_passed_over(tmp_path: Path, said: Scalar) -> None:
    with registered({"max_length": said}) as prompted:
        found = evaluate(prompted, ["plain", "trained"], targets(tmp_path, "stone" * 4))
    assert found["trained"] == found["plain"]


def test_a_text_beyond_the_window_is_cut_beside_prompt_and_answer(
    prompted: PromptedModel, tmp_path: Path
) -> None:
    window = prompted.anatomy.window
    assert window is not None
    found = evaluate(prompted, ["reverse"], targets(tmp_path, "leaf" * window, "leaf"))["reverse"]
    assert found.cut == 1
    assert found.max_length is not None
    (tokens,) = prompted.prompts["reverse"].tokens
    answer = 4 + (prompted.tokenizer.eos_token_id is not None)  # a space and three letters
    assert found.max_length + tokens.length + answer == window


def test_what_leaves_no_room_for_texts_is_refused_before_anything_runs(
    prompted: PromptedModel, tmp_path: Path
) -> None:
    seen: list[int] = []
    examples = targets(tmp_path, *WORDS)
    with pytest.raises(TuningError, match="the template takes 4 tokens"):
        evaluate(
            prompted,
            ["reverse"],
            examples,
            max_length=3,
            progress=lambda done, _: seen.append(done),
        )
    long = [{"text": "leaf", "target": "leaf" * 200}]
    with pytest.raises(TuningError, match="take the model's whole window"):
        evaluate(prompted, ["reverse"], read_examples(write(tmp_path / "y", *long)))
    assert seen == []
