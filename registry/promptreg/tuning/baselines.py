"""What prompt tuning is compared with: written prompts on the frozen base model, and training all its weights.

Neither makes a soft prompt: what they score is registered as a result without one.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from promptreg.answers import fill
from promptreg.errors import TuningError
from promptreg.models import attach
from promptreg.tuning.evaluating import Question
from promptreg.tuning.looking import measure
from promptreg.tuning.plans import Plan, cut_plan, read_plan
from promptreg.tuning.watching import Unwatched, Watcher

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from promptreg.tuning.data import Example, Examples
    from promptreg.tuning.scores import Score

__all__ = ["MODEL_LEARNING_RATE", "prompt_design", "unfrozen", "whole_model"]

MODEL_LEARNING_RATE = 5e-5
"""AdamW's for all weights of a model, if nobody says."""


def prompt_design(
    model: Any,
    plan: Plan,
    *,
    shots: int,
    seed: int,
    tokenizer: "PreTrainedTokenizerBase",
    watcher: Watcher | None = None,
) -> "dict[str, Mapping[str, Score]]":
    """Return what the frozen base model scores with a written prompt: examples, then the template.

    Args:
        model: The base model, as transformers loads it.
        plan: What to score on, and the template. ``max_length`` holds for each text.
        shots: How many examples of ``train`` stand in front of each text, of each label as many as of the
            others as far as it goes; none is zero-shot.
        seed: What they are drawn by.
        tokenizer: The base model's tokenizer.
        watcher: What is told.

    Returns:
        The scores on ``dev``, and on ``test`` if there is one.

    Raises:
        TuningError: The base model classifies, and reads no prompt.
        TuningError: There are not as many examples, or they do not fit into the window.
    """
    watcher = Unwatched() if watcher is None else watcher
    with attach(model, policy="unchecked", tokenizer=tokenizer) as prompted:
        if prompted.anatomy.pooled:
            raise TuningError(
                f"a {type(prompted.model).__name__} answers with classes, whatever is written",
                "name a model that writes text",
            )
        if shots > len(plan.train):
            raise TuningError(
                f"{shots} examples are to be written out, and {plan.train.path} has {len(plan.train)}",
                "ask for fewer",
            )
        reading = read_plan(prompted, plan)
        # What the template ends with decides whether an answer begins with a space.
        template = plan.template or "{text}"
        end = template[len(template.rstrip()) :]
        shown = "".join(
            f"{_answered(template, example)}\n\n" for example in _draw(plan.train, shots, seed)
        )
        taken = len(tokenizer(shown)["input_ids"]) if shown else 0
        plan = cut_plan(prompted, plan, reading, longest=taken, watcher=watcher)
        asked = Question(name="base", template="{text}" + end, labels=reading.labels)
        sets = {"dev": plan.dev, "test": plan.test}
        return {
            name: measure(prompted, asked, _behind(shown, template.rstrip(), examples), reading)
            for name, examples in sets.items()
            if examples is not None
        }


def _answered(template: str, example: "Example") -> str:
    space = "" if template[-1:].isspace() else " "
    return f"{fill(template, example.text)}{space}{example.answer}"


def _behind(shown: str, template: str, examples: "Examples") -> "Examples":
    """Return the examples with texts that have all of the written prompt around them."""
    items = tuple(
        replace(example, text=shown + fill(template, example.text)) for example in examples.items
    )
    return replace(examples, items=items)


def _draw(train: "Examples", shots: int, seed: int) -> "Sequence[Example]":
    """Return ``shots`` examples, the labels in turn."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not a secret
    shuffled = rng.sample(train.items, len(train))
    if not train.labelled:
        return shuffled[:shots]
    by_label: dict[str, list[Example]] = {}
    for example in shuffled:
        by_label.setdefault(example.answer, []).append(example)
    drawn: list[Example] = []
    while len(drawn) < min(shots, len(train)):
        drawn += [own.pop() for own in by_label.values() if own]
    drawn = drawn[:shots]
    rng.shuffle(drawn)
    return drawn


@contextmanager
def unfrozen(model: nn.Module) -> Iterator[None]:
    """Let all weights of ``model`` be trained; afterwards they are what they were."""
    own = [each for each in model.parameters() if each.is_floating_point()]
    before = [each.detach().clone() for each in own]
    for each in own:
        each.requires_grad_()
    try:
        yield
    finally:
        with torch.no_grad():
            for each, values in zip(own, before, strict=True):
                each.copy_(values)
                each.requires_grad_(False)
                each.grad = None


def whole_model(model: nn.Module, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all weights of ``model`` by name, those of a new ``head`` set to its values."""
    own = {name: each for name, each in model.named_parameters() if each.is_floating_point()}
    with torch.no_grad():
        for name, values in head.items():
            own[name].copy_(values)
    return {**own}
