"""Recipes: how one prompt is to be trained, and grids of them. Pure values, no torch."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from promptreg.errors import InvalidValueError
from promptreg.prompts import Placement, Scalar

__all__ = ["GRID_NAMES", "Optimizer", "Recipe", "Schedule", "expand", "read_grid"]

_TEXT = "text:"
_PROMPT = "prompt:"
_INITS = ("auto", "random", "vocab", "labels")
_MOST_TOKENS = 10_000


class Optimizer(StrEnum):
    """What turns gradients into steps."""

    ADAMW = "adamw"
    """AdamW (Loshchilov and Hutter 2019). Its learning rate counts in units of the embedding's own size."""
    ADAFACTOR = "adafactor"
    """Adafactor (Shazeer and Stern 2018) as Lester et al. 2021 set it: without parameter scaling."""


class Schedule(StrEnum):
    """How the learning rate changes after its warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    """To nothing at the last step, in a straight line."""
    COSINE = "cosine"
    """To nothing at the last step, along a half cosine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one prompt is to be trained.

    Attributes:
        num_virtual_tokens: P.
        init: Where it starts: ``random``, ``vocab`` (of the commonest tokens of the training texts), ``labels``
            (the label words, then ``vocab``), ``text:…``, ``prompt:REF``; ``auto`` is ``labels`` where there
            are any, else ``vocab``.
        placement: Where the virtual tokens stand.
        optimizer: What makes the steps.
        learning_rate: The largest learning rate; None for the optimiser's default. AdamW's is in units of the
            root mean square of the base model's embeddings, because that differs a hundredfold between models.
        head_learning_rate: That of a classifier that is trained beside the prompt.
        weight_decay: How much of a value is taken away, a step at learning rate 1; None for the optimiser's
            default.
        schedule: How the learning rate changes; None for the optimiser's default.
        warmup: The share of the steps in which the learning rate grows from nothing.
        batch_size: Examples a step.
        steps: How many steps at most.
        evaluate_every: How many steps lie between two looks at the development set; None for a tenth of all.
        patience: After how many looks without a better score the training stops; 0 for never.
        clip: The largest norm of a step's gradient.
        seed: Of the initial values and of the order of the examples.
        snapshot_step: After which step the prompt is kept as the task's embedding (SPoT).

    Raises:
        InvalidValueError: A value is outside of what makes sense.
    """

    num_virtual_tokens: int = 20
    init: str = "auto"
    placement: Placement = Placement.PREFIX
    optimizer: Optimizer = Optimizer.ADAMW
    learning_rate: float | None = None
    head_learning_rate: float = 0.01
    weight_decay: float | None = None
    schedule: Schedule | None = None
    warmup: float = 0.05
    batch_size: int = 16
    steps: int = 400
    evaluate_every: int | None = None
    patience: int = 5
    clip: float = 1.0
    seed: int = 0
    snapshot_step: int = 50

    def __post_init__(self) -> None:
        for name, kind in (("placement", Placement), ("optimizer", Optimizer)):
            object.__setattr__(self, name, _one_of(name, kind, getattr(self, name)))
        if self.schedule is not None:
            object.__setattr__(self, "schedule", _one_of("schedule", Schedule, self.schedule))
        if self.placement is Placement.KEY_VALUES:
            raise InvalidValueError(
                "the placement", self.placement, "prompt tuning trains embeddings", "use prefix"
            )
        _check_init(self.init)
        for name, least, most in _WHOLE:
            value = getattr(self, name)
            if value is not None and not (type(value) is int and least <= value <= most):
                reason = f"it is a whole number of {least} to {most}"
                raise InvalidValueError(f"{name}", str(value), reason, "choose one")
        for name, least_share, most_share in _NUMBERS:
            value = getattr(self, name)
            if value is not None and not (
                type(value) in (int, float) and least_share <= value <= most_share
            ):
                reason = f"it is a number of {least_share:g} to {most_share:g}"
                raise InvalidValueError(f"{name}", str(value), reason, "choose one")

    @property
    def parent(self) -> str | None:
        """The reference of the prompt that it starts from, if it starts from one."""
        return self.init.removeprefix(_PROMPT) if self.init.startswith(_PROMPT) else None

    @property
    def text(self) -> str | None:
        """The text that it starts from, if it starts from one."""
        return self.init.removeprefix(_TEXT) if self.init.startswith(_TEXT) else None

    @property
    def interval(self) -> int:
        """How many steps lie between two looks at the development set."""
        return self.evaluate_every or max(1, self.steps // 10)

    @property
    def used(self) -> "Recipe":
        """The same recipe with the optimiser's own defaults in place of None."""
        rate, decay, schedule = _DEFAULTS[self.optimizer]
        return replace(
            self,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            weight_decay=decay if self.weight_decay is None else self.weight_decay,
            schedule=self.schedule or schedule,
        )

    @property
    def hyperparameters(self) -> dict[str, Scalar]:
        """What a registered version says of it, beside length, initialisation and placement."""
        used = self.used
        own = {
            each.name: getattr(used, each.name) for each in fields(self) if each.name not in _ELSE
        }
        return {
            name: value.value if isinstance(value, StrEnum) else value
            for name, value in own.items()
        } | {"evaluate_every": self.interval}


_WHOLE = (
    ("num_virtual_tokens", 1, _MOST_TOKENS),
    ("batch_size", 1, 100_000),
    ("steps", 1, 10_000_000),
    ("evaluate_every", 1, 10_000_000),
    ("patience", 0, 10_000_000),
    ("seed", 0, 2**32 - 1),
    ("snapshot_step", 1, 10_000_000),
)
_NUMBERS = (
    ("learning_rate", 1e-8, 1e4),
    ("head_learning_rate", 1e-8, 1e2),
    ("weight_decay", 0.0, 1.0),
    ("warmup", 0.0, 1.0),
    ("clip", 1e-6, 1e6),
)
_DEFAULTS = {
    Optimizer.ADAMW: (0.3, 0.0, Schedule.COSINE),
    # Lester et al. 2021: constant, weight decay 1e-5.
    Optimizer.ADAFACTOR: (0.3, 1e-5, Schedule.CONSTANT),
}
_ELSE = {"num_virtual_tokens", "init", "placement", "evaluate_every"}
GRID_NAMES: Mapping[str, str] = {
    "length": "num_virtual_tokens",
    "init": "init",
    "lr": "learning_rate",
    "optimizer": "optimizer",
    "schedule": "schedule",
    "batch": "batch_size",
    "steps": "steps",
    "seed": "seed",
    "warmup": "warmup",
    "weight_decay": "weight_decay",
    "placement": "placement",
}
"""What an axis of a grid may be called, and which field of a recipe it sets."""


def read_grid(axis: str) -> tuple[str, tuple[Any, ...]]:
    """Read one axis of a grid, ``length=1,5,20``: the field's name and its values.

    A text with commas is written in quotes: ``init=labels,"text:first, second"``.

    Raises:
        InvalidValueError: There is no such axis, or a value is none for it.
    """
    import csv

    name, equals, listed = axis.partition("=")
    if not equals or name not in GRID_NAMES:
        known = ", ".join(GRID_NAMES)
        raise InvalidValueError("the grid", axis, "it reads AXIS=VALUE,…", f"axes are {known}")
    kinds = {each.name: each.type for each in fields(Recipe)}
    field = GRID_NAMES[name]
    words = next(csv.reader([listed], skipinitialspace=True), [])
    read = int if kinds[field] is int else float if kinds[field] in (float, float | None) else str
    try:
        values = tuple(read(word) for word in words)
    except ValueError as error:
        reason = f"a value is no {read.__name__}"
        raise InvalidValueError("the grid", axis, reason, "mend it") from error
    if not values or len(set(values)) < len(values):
        reason = "a value stands there twice" if values else "it has no values"
        raise InvalidValueError("the grid", axis, reason, "name each value once")
    return field, values


def expand(recipe: Recipe, axes: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Recipe]:
    """Return ``recipe`` with every combination of the values on ``axes``, the last axis changing fastest.

    Raises:
        InvalidValueError: An axis is given twice, or a value makes no sense.
    """
    names = [name for name, _ in axes]
    for name in names:
        if names.count(name) > 1:
            raise InvalidValueError("the grid", name, "it has this axis twice", "give it once")
    products = itertools.product(*(values for _, values in axes))
    return [replace(recipe, **dict(zip(names, values, strict=True))) for values in products]


def _one_of(name: str, kind: type[StrEnum], value: str) -> StrEnum:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(kind)
        raise InvalidValueError(
            f"the {name}", str(value), "there is none of that name", f"choose from {known}"
        ) from None


def _check_init(init: str) -> None:
    if init in _INITS:
        return
    for prefix in (_TEXT, _PROMPT):
        if isinstance(init, str) and init.startswith(prefix) and init.removeprefix(prefix).strip():
            return
    raise InvalidValueError(
        "the initialisation",
        str(init),
        "there is none of that name",
        f"choose from {', '.join(_INITS)}, text:… and prompt:REF",
    )
