"""Registering what a run made: the prompt, what it scored, what it was started from, and its canary."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from promptreg.errors import TuningError
from promptreg.tuning.learners import Outcome
from promptreg.tuning.tuned import Tuned

if TYPE_CHECKING:
    from promptreg.bases import BaseModel
    from promptreg.pushing import Pushed
    from promptreg.registry import Registry

__all__ = ["check_learned", "push_tuned"]


def push_tuned(
    registry: "Registry",
    tuned: Tuned,
    *,
    task: str,
    base: "BaseModel",
    model: Any = None,
    aliases: Sequence[str] = (),
    note: str | None = None,
) -> "Pushed":
    """Register a run's prompt as the next version of ``task``, with all that is known about the run.

    Args:
        registry: The registry.
        tuned: The run.
        task: The task's name.
        base: The base model that it was trained on.
        model: That base model at hand, to record a canary; none is recorded without.
        aliases: Names to set on the version.
        note: Free text.

    Raises:
        TuningError: The run did not end well, or ended no better than it started.
        PromptregError: As ``Registry.push`` says.
    """
    check_learned(tuned)
    if tuned.prompt is None:
        raise TuningError(f"{tuned.name} made no prompt", "record it as a result")
    canary = None
    if model is not None:
        from promptreg.models import record_canary

        canary = record_canary(model, tuned.prompt)
    return registry.push(
        tuned.prompt,
        task=task,
        base=base,
        metrics=tuned.metrics,
        aliases=aliases,
        parent=tuned.recipe.parent,
        note=note,
        canary=canary,
    )


def check_learned(tuned: Tuned) -> None:
    """Return if a run ended well, and better than it started.

    Raises:
        TuningError: It did not; the text says what happened.
    """
    if tuned.learned:
        return
    if tuned.outcome is Outcome.DIVERGED:
        raise TuningError(
            f"{tuned.name} diverged after {tuned.steps} steps: its loss rose, or was no number",
            "lower the learning rate with --lr",
        )
    if tuned.outcome is Outcome.FINISHED:
        raise TuningError(
            f"{tuned.name} is after {tuned.steps} steps no better than where it started",
            "raise the learning rate or the steps, or look at the data",
        )
    raise TuningError(f"{tuned.name} is {tuned.outcome}, not finished", "let it finish")
