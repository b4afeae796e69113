"""Prompts are measured on examples, several of them in one pass."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import promptreg
from promptreg import PromptedModel, artifacts
from promptreg.errors import InvalidDataError
from promptreg.tuning import evaluate, read_examples
from promptreg_cli.demo import base_directory, prompt_directory


@pytest.fixture
def prompted() -> Iterator[PromptedModel]:
    base: Any = AutoModelForCausalLM.from_pretrained(base_directory())
    with promptreg.attach(base, policy="unchecked") as prompted:
        for name in ("reverse", "shout"):
            prompt = artifacts.read(prompt_directory(name))
            prompted.add(replace(prompt, template="{text} ->"), name=name)
            labels = replace(prompt, template="{text}?", labels=("yes", "no"))
            prompted.add(labels, name=f"{name}-labels")
        yield prompted


def write(path: Path, *lines: dict[str, str]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_targets_are_matched_exactly(prompted: PromptedModel, tmp_path: Path) -> None:
    words = ["garden", "stone", "leaf", "river"]
    rows = [{"text": word, "target": f" {word[::-1]} "} for word in words]
    examples = read_examples(write(tmp_path / "x", *rows))
    seen: list[tuple[int, int]] = []
    scores = evaluate(
        prompted,
        ["reverse", "shout", None],
        examples,
        max_new_tokens=12,
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert scores["reverse"]["exact_match"].value >= 0.75
    assert scores["shout"]["exact_match"].value == 0.0
    assert scores[None]["exact_match"].count == 4
    assert seen[-1] == (12, 12)


def test_labels_are_scored_as_answered(prompted: PromptedModel, tmp_path: Path) -> None:
    words = ["garden", "stone", "leaf", "river"]
    answers = prompted.answer(words, prompts=["reverse-labels"] * 4)
    rows = [
        {"text": word, "label": answer.text} for word, answer in zip(words, answers, strict=True)
    ]
    rows[0]["label"] = {"yes": "no", "no": "yes"}[rows[0]["label"]]
    examples = read_examples(write(tmp_path / "x", *rows))
    scores = evaluate(prompted, ["reverse-labels", "shout-labels"], examples)
    assert set(scores["reverse-labels"]) == {"accuracy", "macro_f1"}
    assert scores["reverse-labels"]["accuracy"].value == 0.75


def test_a_label_that_a_prompt_does_not_know_is_named(
    prompted: PromptedModel, tmp_path: Path
) -> None:
    rows = [{"text": "a", "label": "yes"}, {"text": "b", "label": "maybe"}]
    examples = read_examples(write(tmp_path / "x", *rows))
    with pytest.raises(
        InvalidDataError, match="line 2: its label 'maybe' is none of shout-labels's: yes, no"
    ):
        evaluate(prompted, ["shout-labels"], examples)
