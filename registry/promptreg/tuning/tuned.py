"""What came of a run: the trained prompt, what it scored, and how to register it.

P is the number of virtual tokens, H the base model's embedding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from promptreg.layouts import MODULES_PREFIX, PROMPT_EMBEDDINGS, TASK_EMBEDDING
from promptreg.prompts import Method, Scalar, SoftPrompt, TaskType, Tensor
from promptreg.tuning.learners import Learner, Look, Outcome
from promptreg.tuning.recipes import Recipe

if TYPE_CHECKING:
    import torch

    from promptreg.tuning.scores import Score

__all__ = ["Tuned", "as_metrics", "curve", "soft_prompt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A run that ended.

    Attributes:
        name: What the run is called.
        recipe: How it was trained, all values filled in.
        outcome: How it ended.
        prompt: The prompt at its best look, with the task's embedding; None if it was never measured, and for
            methods that make none.
        looks: What was seen on the development set.
        steps: How many steps it took.
        seconds: How long it trained.
        scores: What it scored on each set, ``dev`` and ``test``.
        hyperparameters: What is registered of how it was trained.
        checkpoint: The file that it goes on from while it is there; to be removed once the run is registered.
    """

    name: str
    recipe: Recipe
    outcome: Outcome
    prompt: SoftPrompt | None
    looks: tuple[Look, ...]
    steps: int
    seconds: float
    scores: "Mapping[str, Mapping[str, Score]]" = field(default_factory=dict)
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    checkpoint: Path | None = None

    @property
    def best(self) -> Look | None:
        """The best look at the development set."""
        return max(self.looks, key=lambda look: look.rank, default=None)

    @property
    def learned(self) -> bool:
        """Whether it ended well, better than it started: only such a run is worth registering."""
        best = self.best
        return self.outcome is Outcome.FINISHED and best is not None and best.step > 0

    @property
    def metrics(self) -> dict[str, Scalar]:
        """What is registered of what it scored."""
        found: dict[str, Scalar] = {}
        for name, scores in self.scores.items():
            found |= as_metrics(scores, prefix=f"{name}_")
        if self.best is not None:
            found |= {"dev_loss": self.best.loss, "best_step": self.best.step}
            found["dev_curve"] = curve(self.looks)
        return found | {"trained_steps": self.steps, "train_seconds": round(self.seconds, 3)}


def as_metrics(scores: "Mapping[str, Score]", *, prefix: str = "") -> dict[str, Scalar]:
    """Return scores as metrics: each one's value, and both ends of its 95 % confidence interval."""
    found: dict[str, Scalar] = {}
    for name, score in scores.items():
        found[f"{prefix}{name}"] = score.value
        found[f"{prefix}{name}_low"] = score.low
        found[f"{prefix}{name}_high"] = score.high
    return found


def curve(looks: Sequence[Look]) -> str:
    """Return the score at each step that was looked at, as ``10:0.52 20:0.71``."""
    return " ".join(f"{look.step}:{look.score:.4g}" for look in looks)


def soft_prompt(
    learner: Learner,
    *,
    task_type: TaskType,
    template: str | None,
    labels: Sequence[str],
    hyperparameters: Mapping[str, Scalar],
) -> SoftPrompt | None:
    """Return the prompt at its best look; None if there was no look, or no prompt."""
    if not learner.best or not learner.length:
        return None
    tensors = {
        name if name == PROMPT_EMBEDDINGS else MODULES_PREFIX + name: _stored(each)
        for name, each in learner.best.items()
    }
    if learner.snapshot is not None:
        tensors[TASK_EMBEDDING] = _stored(learner.snapshot)
    tokens, width = learner.best[PROMPT_EMBEDDINGS].shape
    init = learner.recipe.init
    if init == "auto":
        init = "labels" if labels else "vocab"
    return SoftPrompt(
        method=Method.PROMPT_TUNING,
        tensors=tensors,
        num_virtual_tokens=tokens,
        token_dim=width,
        task_type=task_type,
        placement=learner.recipe.placement,
        template=template,
        labels=tuple(labels),
        init=init,
        hyperparameters=hyperparameters,
        source_format="promptreg",
    )


def _stored(tensor: "torch.Tensor") -> Tensor:
    own = tensor.detach().float().cpu().contiguous()
    return Tensor(dtype="F32", shape=tuple(own.shape), data=own.numpy().tobytes())
