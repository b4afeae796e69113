"""Real prompts in mixed batches on a real base model: text in, answers out."""

from pathlib import Path
from typing import Any

import pytest

import promptreg
from prompt_examples import soft_prompt
from promptreg import artifacts
from real.bbc import TEMPLATE, TOPICS
from real.training import Trained

pytestmark = pytest.mark.real


def test_answers_of_a_mixed_batch_are_those_of_the_trained_prompt(
    trained: Trained, base: Path
) -> None:
    """The prompt's answers are PEFT's, with rows of the bare model and of a longer prompt among them."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    topic = artifacts.read(trained.directory)
    other = soft_prompt(40, model.config.hidden_size)
    texts, wanted = [], []
    for article, label in zip(trained.articles[::5], trained.labels[::5], strict=True):
        texts += [article.text] * 3
        wanted.append(label)
    with promptreg.attach(model, policy="unchecked") as prompted:
        prompted.add(_with(topic), name="topic")
        prompted.add(other, name="other")
        names = ["topic", "other", None] * len(wanted)
        answers = prompted.answer(texts, prompts=names, max_new_tokens=2, batch_size=18)
    found = answers[::3]
    assert [answer.text for answer in found] == wanted
    assert all(sum((answer.scores or {}).values()) == pytest.approx(1) for answer in found)
    assert all(answer.scores is None for answer in answers[1::3])


def _with(prompt: promptreg.SoftPrompt) -> promptreg.SoftPrompt:
    """Return the prompt with the template and the label words that a push would give it."""
    from dataclasses import replace

    return replace(prompt, template=TEMPLATE, labels=TOPICS)
