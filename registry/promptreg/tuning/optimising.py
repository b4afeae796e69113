"""Optimisers and their learning rates over time."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from promptreg.layouts import PROMPT_EMBEDDINGS
from promptreg.tuning.recipes import Optimizer, Recipe, Schedule

__all__ = ["learning_rate_factor", "make_optimizer"]


def make_optimizer(
    recipe: Recipe, parameters: Mapping[str, Tensor], *, scale: float
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser; each of its groups keeps its largest learning rate as ``largest_lr``.

    Args:
        recipe: With all values filled in.
        parameters: The prompt, and a classifier's own; or the base model's, without a prompt.
        scale: What AdamW's learning rate for the prompt counts in. Adafactor's is as it is given.
    """
    rate = recipe.learning_rate or 0.0
    of_prompt = rate * scale if recipe.optimizer is Optimizer.ADAMW else rate
    heads = [each for name, each in parameters.items() if name != PROMPT_EMBEDDINGS]
    if PROMPT_EMBEDDINGS not in parameters:
        groups = [_group(heads, of_prompt)]
    else:
        groups = [_group([parameters[PROMPT_EMBEDDINGS]], of_prompt)]
        groups += [_group(heads, recipe.head_learning_rate)] if heads else []
    if recipe.optimizer is Optimizer.ADAMW:
        return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay or 0.0)
    from transformers.optimization import Adafactor

    untyped: Any = Adafactor
    made: torch.optim.Optimizer = untyped(
        groups,
        decay_rate=-0.8,
        weight_decay=recipe.weight_decay or 0.0,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
    )
    return made


def _group(tensors: list[Tensor], largest: float) -> dict[str, Any]:
    return {"params": tensors, "lr": largest, "largest_lr": largest}


def learning_rate_factor(recipe: Recipe, step: int) -> float:
    """Return what the learning rate is multiplied with at step ``step``, from 0."""
    warm = math.ceil(recipe.warmup * recipe.steps)
    if step < warm:
        return (step + 1) / warm
    left = (recipe.steps - step) / max(1, recipe.steps - warm)  # from 1 to nothing
    if recipe.schedule is Schedule.LINEAR:
        return left
    if recipe.schedule is Schedule.COSINE:
        return (1 - math.cos(math.pi * left)) / 2
    return 1.0
