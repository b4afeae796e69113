"""How close a registered prompt is to another, and whether that says anything."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from promptreg.prompts import PromptVersion

if TYPE_CHECKING:
    from promptreg.bases import BaseModel

__all__ = ["Compared", "Neighbour", "Similar", "Weakness", "kinship", "least_cosine"]

_LEAST = 0.2
_ONE_IN = 20  # how seldom chance goes beyond
_SEEDED = {"random", "vocab"}


class Compared(StrEnum):
    """What of two prompts was compared: never an early state of one with the finished other."""

    TASK_EMBEDDINGS = "task-embeddings"
    """Both as they were at a fixed early step of their training, as SPoT does it."""
    PROMPTS = "prompts"
    """Both as they became, where one of them kept no early state."""


class Weakness(StrEnum):
    """Why a cosine says little."""

    LOW = "low"
    """It is hardly more than two unrelated directions have."""
    SHARED = "shared"
    """It is what all prompts of the base model have in common."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A registered prompt, and how close it is.

    Attributes:
        version: Which one.
        cosine: The cosine of the two mean tokens.
        per_token: The mean of the cosines of all pairs of a token of one and a token of the other.
        centred: The cosine of the two mean tokens as seen from the mean over all tasks; None if there are too
            few tasks for that.
        compared: What of both was compared.
        same_task: Whether it is for the same task.
        kin: Why the two are alike whatever they do, if they are known to have begun alike.
        weak: Why the cosine says little; None if it does say something.
    """

    version: PromptVersion
    cosine: float
    per_token: float
    centred: float | None
    compared: Compared
    same_task: bool = False
    kin: str | None = None
    weak: Weakness | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """The closest registered prompts.

    Attributes:
        base: The base model of all of them.
        reference: What they are close to; None if that is not registered.
        neighbours: The closest, in order of ``cosine``.
        nearest: The closest of another task, from which a prompt could be started; None if there is none.
        prompts: How many prompts were compared.
        tasks: Of how many tasks they are.
        least: The cosine below which the closest says little.
        least_centred: The same, seen from the mean over the tasks.
        notes: What was left out and what makes the numbers uneven, a sentence each.
    """

    base: "BaseModel"
    reference: PromptVersion | None = None
    neighbours: tuple[Neighbour, ...] = ()
    nearest: Neighbour | None = None
    prompts: int = 0
    tasks: int = 0
    least: float = _LEAST
    least_centred: float = _LEAST
    notes: tuple[str, ...] = ()

    @property
    def weak(self) -> bool:
        """Whether no prompt of another task is close enough to be worth starting from."""
        return self.nearest is None or self.nearest.weak is not None

    @property
    def verdict(self) -> str:
        """What to make of it, in a sentence."""
        found = self.nearest
        if found is None:
            return f"no prompt of another task can be compared on {self.base}"
        ref = found.version.ref
        if found.weak is Weakness.LOW:
            return (
                f"similarity is weak: the closest of another task is {ref}, and its cosine of "
                f"{found.cosine:.2f} is low (unrelated prompts reach up to {self.least:.2f})"
            )
        if found.weak is Weakness.SHARED:
            return (
                f"similarity is weak: the closest of another task is {ref}, and its cosine of "
                f"{found.cosine:.2f} is what all {self.tasks} tasks share: seen from their mean it is "
                f"{found.centred:.2f} (unrelated prompts reach up to {self.least_centred:.2f})"
            )
        if found.centred is None:
            seen = f"with {self.tasks} tasks in all nothing tells whether that stands out"
        else:
            seen = f"{found.centred:.2f} seen from the mean of the {self.tasks} tasks"
        kin = f"; but {found.kin}, which makes them alike by itself" if found.kin else ""
        return f"the closest of another task is {ref}: cosine {found.cosine:.2f}, {seen}{kin}"


def least_cosine(width: int, tasks: int, spread: float = 0) -> float:
    """Return the cosine from which on the closest of the prompts of some tasks says something.

    Below 0.2 two directions share less than a twentieth (its square). And the closest of n unrelated prompts
    comes beyond the root of 2 ln 20 n, times the spread of their cosines, once in twenty times at most. The
    spread is one over the root of the width where all directions are alike; in an embedding space, where they
    are not, it is more.

    Args:
        width: H.
        tasks: n.
        spread: The standard deviation of the cosines, if it was seen.

    >>> least_cosine(640, 100), round(least_cosine(640, 100, spread=0.1), 2)
    (0.2, 0.39)
    """
    reach = math.sqrt(2 * math.log(_ONE_IN * max(tasks, 1)))
    return max(_LEAST, reach * max(spread, 1 / math.sqrt(width)))


def kinship(one: PromptVersion, other: PromptVersion) -> str | None:
    """Return why two prompts are alike whatever they were trained for, if what is registered says so."""
    if one.digest == other.digest:
        return "their tensors are the same"
    if other.parent == one.ref or one.parent == other.ref:
        child, parent = (other, one) if other.parent == one.ref else (one, other)
        return f"{child.ref} was started from {parent.ref}"
    if one.parent is not None and one.parent == other.parent:
        return f"both were started from {one.parent}"
    return _same_beginning(one, other)


def _same_beginning(one: PromptVersion, other: PromptVersion) -> str | None:
    if one.init is None or one.init != other.init:
        return None
    if one.init.startswith("text:"):
        return f"both began as {one.init}"
    seed = one.hyperparameters.get("seed")
    if one.init in _SEEDED and seed is not None and seed == other.hyperparameters.get("seed"):
        return f"both began as {one.init} with seed {seed}"
    return None
