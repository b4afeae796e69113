"""Learners: one prompt in training each, with its own optimiser, its own order of examples, its own past.

P is the number of virtual tokens, H the base model's embedding width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from promptreg.layouts import PROMPT_EMBEDDINGS
from promptreg.models.virtual import VirtualTokens
from promptreg.tuning.optimising import learning_rate_factor, make_optimizer
from promptreg.tuning.recipes import Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptreg.tuning.batching import Order
    from promptreg.tuning.rows import Row

__all__ = ["Learner", "Look", "Outcome"]

_BLOWN_UP = (
    2.0  # times the lowest loss so far (the first, or a mean between two looks), and one nat
)


class Outcome(StrEnum):
    """How a run stands, or ended."""

    RUNNING = "running"
    FINISHED = "finished"
    """It took all its steps, or its score had not risen for its patience."""
    HOPELESS = "hopeless"
    """It was stopped because others in its sweep were clearly better."""
    DIVERGED = "diverged"
    """Its loss rose and rose, or was no number."""
    INTERRUPTED = "interrupted"
    """Somebody stopped it; it can go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at the development set saw.

    Attributes:
        step: After which step.
        score: The accuracy, or the likelihood of a target's token; the larger, the better.
        low: The lower end of its 95 % confidence interval.
        high: The upper end.
        loss: The mean negative log-likelihood of what is right, in nats.
        train_loss: The mean loss of the steps since the look before; none at the first.
    """

    step: int
    score: float
    low: float
    high: float
    loss: float
    train_loss: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """What looks are compared by: the score, and of equal ones the loss."""
        return self.score, -self.loss


@dataclass(slots=True, kw_only=True, eq=False)
class Learner:
    """One prompt in training.

    Attributes:
        name: What its run is called.
        recipe: How it is trained, with the optimiser's own defaults filled in.
        rows: The examples, as this prompt reads them.
        order: Which of them each step learns from.
        parameters: [P, H] ``prompt_embeddings``, and a new classifier's own by their names in the base model,
            all float32; or, without a prompt, the base model's.
        scale: What AdamW's learning rate for the prompt is multiplied with.
        optimizer: Its optimiser.
        step: How many steps it has taken.
        outcome: How it stands.
        looks: What was seen on the development set.
        best: The parameters at the best look.
        snapshot: [P, H] The prompt after ``recipe.snapshot_step``, if it came that far.
        seconds: How long it has trained: of a step with several prompts, its rows' share.
        first_loss: That of the first step; None before it.
        losses: Those of the steps since the last look.
    """

    name: str
    recipe: Recipe
    rows: "Sequence[Row]"
    order: "Order"
    parameters: Mapping[str, Tensor]
    scale: float
    optimizer: torch.optim.Optimizer = field(init=False)
    step: int = 0
    outcome: Outcome = Outcome.RUNNING
    looks: list[Look] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    snapshot: Tensor | None = None
    seconds: float = 0.0
    first_loss: float | None = None
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recipe = self.recipe.used
        for tensor in self.parameters.values():
            tensor.requires_grad_()
        self.optimizer = make_optimizer(self.recipe, self.parameters, scale=self.scale)

    @property
    def running(self) -> bool:
        """Whether it has steps to take."""
        return self.outcome is Outcome.RUNNING

    @property
    def best_look(self) -> Look:
        """The look with the best score; of equal ones the first."""
        return max(self.looks, key=lambda look: look.rank)

    @property
    def due(self) -> bool:
        """Whether it is time to look at the development set."""
        seen = bool(self.looks) and self.looks[-1].step == self.step
        return not seen and (
            self.step % self.recipe.interval == 0 or self.step == self.recipe.steps
        )

    @property
    def recent_loss(self) -> float | None:
        """The mean loss since the last look."""
        return math.fsum(self.losses) / len(self.losses) if self.losses else None

    @property
    def length(self) -> int:
        """P; none where all of the base model is trained instead."""
        return (
            len(self.parameters[PROMPT_EMBEDDINGS]) if PROMPT_EMBEDDINGS in self.parameters else 0
        )

    def tokens(self, dtype: torch.dtype) -> VirtualTokens | None:
        """Return its virtual tokens as they are now, in the base model's dtype; None if it trains none."""
        if not self.length:
            return None
        return VirtualTokens(
            placement=self.recipe.placement,
            length=self.length,
            embeddings=self.parameters[PROMPT_EMBEDDINGS].to(dtype),
            modules={
                name: tensor.to(dtype)
                for name, tensor in self.parameters.items()
                if name != PROMPT_EMBEDDINGS
            },
        )

    def next_rows(self) -> "list[Row]":
        """Return the examples of the next step."""
        return [self.rows[at] for at in self.order.batch(self.step)]

    def update(self, loss: float) -> None:
        """Take the step that the gradients tell, which came with this loss; or diverge."""
        parameters = list(self.parameters.values())
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
        if not math.isfinite(loss) or not bool(norm.isfinite()):
            self.optimizer.zero_grad()
            self.outcome = Outcome.DIVERGED
            return
        factor = learning_rate_factor(self.recipe, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["largest_lr"] * factor
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.losses.append(loss)
        if self.first_loss is None:
            self.first_loss = loss
        if self.length and self.step == self.recipe.snapshot_step:
            self.snapshot = self.parameters[PROMPT_EMBEDDINGS].detach().clone()

    def see(self, look: Look) -> None:
        """Take in what a look saw: remember the best, and stop when it is time to."""
        self.looks.append(look)
        self.losses = []
        if self.best_look is look:
            self.best = {name: each.detach().clone() for name, each in self.parameters.items()}
        seen = (self.first_loss, *(each.train_loss for each in self.looks))
        means = [loss for loss in seen if loss is not None]
        waited = len(self.looks) - 1 - self.looks.index(self.best_look)
        if means and means[-1] > _BLOWN_UP * min(means) + 1:
            self.outcome = Outcome.DIVERGED
        elif self.step >= self.recipe.steps or 0 < self.recipe.patience <= waited:
            self.outcome = Outcome.FINISHED
