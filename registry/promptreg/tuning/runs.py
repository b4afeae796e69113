"""Runs: every registered prompt version and every result without a prompt, read alike for a report."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean
from typing import TYPE_CHECKING

from promptreg.errors import InvalidValueError
from promptreg.fingerprints import Fingerprint
from promptreg.prompts import PromptVersion, Scalar
from promptreg.results import PROMPT_DESIGN, Result

if TYPE_CHECKING:
    from promptreg.registry import Registry

__all__ = ["Measured", "Metric", "Run", "choose_metric", "collect", "mean", "shown"]

_SPLITS = ("test", "dev")
_SCORES = ("accuracy", "exact_match", "perplexity", "macro_f1")
_LOWER_IS_BETTER = ("perplexity", "loss", "seconds", "error")
# What may differ between two runs of one setting: chance, the machine, and what is only recorded.
_NO_SETTING = frozenset({"seed", "device", "snapshot_step", "dev_data", "test_data"})
_LARGE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A score, with the ends of its 95 % confidence interval if they were recorded."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What runs are compared by.

    Attributes:
        name: Its name in the registry: ``test_accuracy``.
    """

    name: str

    @property
    def score(self) -> str:
        """The name without the examples that it was measured on: ``accuracy``."""
        split, _, rest = self.name.partition("_")
        return rest if split in _SPLITS and rest else self.name

    @property
    def text(self) -> str:
        """The name as a person reads it: ``test accuracy``."""
        return self.name.replace("_", " ")

    @property
    def lower_is_better(self) -> bool:
        """Whether a small value is a good one."""
        return any(word in self.name for word in _LOWER_IS_BETTER)

    def rank(self, value: float) -> float:
        """Return a number that is the larger the better ``value`` is."""
        return -value if self.lower_is_better else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One prompt version, or one result without a prompt.

    Attributes:
        ref: The version's reference; None for a result.
        base: What people call its base model.
        parameters: How many numbers the base model's weights hold.
        method: ``prompt-tuning``, ``prompt-design``, …
        length: The virtual tokens; None for a result.
        init: How the prompt was initialised, if known.
        by: Who registered it.
        at: When, in UTC.
    """

    ref: str | None = None
    base: str
    parameters: int
    method: str
    length: int | None = None
    init: str | None = None
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, Scalar] = field(default_factory=dict)
    by: str
    at: datetime

    @property
    def name(self) -> str:
        """What a person calls its method, with what tells the written prompts apart."""
        shots = self.hyperparameters.get("shots")
        if self.method != PROMPT_DESIGN or shots is None:
            return self.method.replace("-", " ")
        return "zero-shot" if shots == 0 else f"few-shot, {shots} examples"

    @property
    def setting(self) -> dict[str, Scalar]:
        """All that was chosen for it, and so all that a run with another seed has in common with it."""
        chosen = {
            name: value for name, value in self.hyperparameters.items() if name not in _NO_SETTING
        }
        columns = {"method": self.method, "base": self.base, "length": self.length}
        columns["init"] = self.init
        return chosen | {name: value for name, value in columns.items() if value is not None}

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """The dev score at each evaluated step; nothing if none was recorded."""
        try:
            pairs = [pair.split(":") for pair in str(self.metrics.get("dev_curve", "")).split()]
            return tuple((int(step), float(score)) for step, score in pairs)
        except ValueError:  # pushed from elsewhere, with a text of another form
            return ()

    def score(self, metric: Metric | str) -> Measured | None:
        """Return what it scored, None if that was not recorded as a number."""
        name = metric if isinstance(metric, str) else metric.name
        value = _number(self.metrics.get(name))
        if value is None:
            return None
        ends = (_number(self.metrics.get(f"{name}_{end}")) for end in ("low", "high"))
        low, high = ends
        return Measured(value=value, low=low, high=high)


def collect(registry: "Registry", task: str, *, page: int = 1000) -> dict[str, tuple[Run, ...]]:
    """Return the runs of each task that ``task`` names, the newest first, versions before results.

    Args:
        registry: Where they are registered.
        task: A name; ``*`` and ``?`` are wildcards.
        page: How many versions are asked for at once.

    Raises:
        TaskNotFoundError: There is no such task.
    """
    sizes = {base.fingerprint: base.parameters for base in registry.bases()}
    found: dict[str, list[Run]] = {}
    for version in _versions(registry, task, page):
        found.setdefault(version.task, []).append(_of_version(version, sizes))
    for result in registry.results(task):
        found.setdefault(result.task, []).append(_of_result(result, sizes))
    return {name: tuple(found[name]) for name in sorted(found)}


def choose_metric(runs: Sequence[Run], wanted: str | None = None) -> Metric | None:
    """Return what to compare ``runs`` by: None if none of them has a score.

    Args:
        runs: The runs of one task.
        wanted: The name of a metric; unless given, the scores on test data come before those on dev data,
            if at least half as many runs have them.

    Raises:
        InvalidValueError: ``wanted`` was given, and no run has it as a number.
    """
    counts: dict[str, int] = {}
    for run in runs:
        for name in run.metrics:
            if run.score(name) is not None:
                counts[name] = counts.get(name, 0) + 1
    if wanted is not None:
        if wanted not in counts:
            raise InvalidValueError(
                "the metric",
                wanted,
                "no run has a number of that name",
                f"choose one of {', '.join(sorted(counts)) or 'none'}",
            )
        return Metric(name=wanted)
    preferred = [f"{split}_{score}" for split in _SPLITS for score in _SCORES] + [*_SCORES]
    enough = max((counts.get(name, 0) for name in preferred), default=0) / 2
    for name in preferred:
        if counts.get(name, 0) >= max(enough, 1):
            return Metric(name=name)
    return None


def mean(scores: Iterable[Measured]) -> Measured:
    """Return the mean of the values, and of the ends of their intervals if all have them."""
    scores = list(scores)
    lows = [each.low for each in scores if each.low is not None]
    highs = [each.high for each in scores if each.high is not None]
    whole = len(lows) == len(highs) == len(scores)
    return Measured(
        value=fmean(each.value for each in scores),
        low=fmean(lows) if whole else None,
        high=fmean(highs) if whole else None,
    )


def shown(value: float) -> str:
    """Return a score as a person reads it: three decimals, or four digits of a large one."""
    return f"{value:.3f}" if abs(value) < _LARGE else f"{value:,.4g}"


def _versions(registry: "Registry", task: str, limit: int) -> Iterator[PromptVersion]:
    after = None
    while True:
        page = registry.list(task, limit=limit, after=after)
        yield from page.versions
        after = page.next
        if after is None:
            return


def _of_version(version: PromptVersion, sizes: Mapping[Fingerprint, int]) -> Run:
    return Run(
        ref=version.ref,
        base=version.base_name or version.base.short,
        parameters=sizes[version.base],
        method=version.method.value,
        length=version.num_virtual_tokens,
        init=version.init,
        hyperparameters=version.hyperparameters,
        metrics=version.metrics,
        by=version.pushed_by,
        at=version.pushed_at,
    )


def _of_result(result: Result, sizes: Mapping[Fingerprint, int]) -> Run:
    return Run(
        base=result.base_name or result.base.short,
        parameters=sizes[result.base],
        method=result.method,
        hyperparameters=result.hyperparameters,
        metrics=result.metrics,
        by=result.recorded_by,
        at=result.recorded_at,
    )


def _number(value: Scalar | None) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
