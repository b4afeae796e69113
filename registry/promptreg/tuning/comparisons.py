"""What the plots of a report compare: runs that differ in one thing, and what is missing where none do."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from promptreg.prompts import Scalar
from promptreg.results import MODEL_TUNING, PROMPT_DESIGN
from promptreg.tuning.runs import Measured, Metric, Run, mean
from promptreg.tuning.varying import Setting, best_setting, describe, judging, settings_that_vary

__all__ = ["Comparison", "Missing", "Point", "Series", "compare_runs"]

_MOST_SERIES = 6
_MOST_ROWS = 12
_BETWEEN = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The scores of the runs at one place of a plot: several seeds of one setting.

    Attributes:
        at: A number, or the name of a row.
        scores: One a run.
    """

    at: float | str
    scores: tuple[Measured, ...]

    @property
    def mean(self) -> Measured:
        """Their mean."""
        return mean(self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points that belong together.

    Attributes:
        label: What tells it from the other series; empty if it is the only one.
        points: In the order in which they are drawn.
    """

    label: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one plot shows.

    Attributes:
        key: Its name in the page.
        title: What is compared.
        sentence: What it shows, and what else is equal.
        form: How it is drawn: lines over a number, curves without marks, or rows with dots or bars.
        series: What is drawn.
        across: What the horizontal axis is, where it is no score.
        score: What the scores are.
        log: Whether the horizontal axis is logarithmic.
    """

    key: str
    title: str
    sentence: str
    form: Literal["lines", "curves", "dots", "bars"]
    series: tuple[Series, ...]
    across: str = ""
    score: str
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A plot that is left out.

    Attributes:
        title: What would be compared.
        reason: Why there is nothing to compare.
        command: What fills it.
    """

    title: str
    reason: str
    command: str


def compare_runs(task: str, runs: Sequence[Run], metric: Metric) -> list[Comparison | Missing]:
    """Return what can be compared among the runs of ``task``, and what cannot, in the page's order."""
    scored = [run for run in runs if run.score(metric) is not None]
    prompts = [run for run in scored if run.length is not None]
    return [
        _methods(task, scored, metric),
        _lengths(task, prompts, metric),
        _inits(task, prompts, metric),
        _curves(task, runs),
        _bases(task, scored, metric),
        _seeds(task, scored, metric),
    ]


def _lengths(task: str, runs: Sequence[Run], metric: Metric) -> Comparison | Missing:
    title = "Prompt length"
    varying = settings_that_vary(runs, metric, "length", most=_MOST_SERIES)
    if not varying:
        return Missing(
            title=title,
            reason=_one_value(runs, "length", "prompt length", "virtual tokens"),
            command=_sweep(task, "length=1,5,20,100"),
        )
    return Comparison(
        key="length",
        title=title,
        sentence=f"{_capital(metric.text)} against the number of virtual tokens; {_equal(varying)}",
        form="lines",
        series=_series(varying, metric, float),
        across="virtual tokens (log scale)",
        score=_axis(metric),
        log=True,
    )


def _inits(task: str, runs: Sequence[Run], metric: Metric) -> Comparison | Missing:
    title = "Initialisation"
    runs = [run for run in runs if run.init is not None]
    varying = settings_that_vary(runs, metric, "init", most=_MOST_SERIES)
    if not varying:
        return Missing(
            title=title,
            reason=_one_value(runs, "init", "initialisation", ""),
            command=_sweep(task, "init=random,vocab,labels"),
        )
    return Comparison(
        key="init",
        title=title,
        sentence=f"{_capital(metric.text)} by how the virtual tokens were initialised; "
        f"{_equal(varying)}",
        form="dots",
        series=_series(varying, metric, str),
        score=_axis(metric),
    )


def _curves(task: str, runs: Sequence[Run]) -> Comparison | Missing:
    title = "Steps"
    drawn = [run for run in runs if len(run.curve) > 1]
    if not drawn:
        return Missing(
            title=title,
            reason="no run recorded its dev score at two steps or more",
            command=f"promptreg tune --base DIR --task {task} --train train.jsonl --dev dev.jsonl",
        )
    settings: dict[str, list[Run]] = {}
    for run in drawn:
        settings.setdefault(_key(run.setting), []).append(run)
    # The newest settings: what somebody who looks at learning curves has just run.
    shown = list(settings.values())[:_MOST_SERIES]
    labels = describe([group[0].setting for group in shown])
    series = [_curve(label, group) for label, group in zip(labels, shown, strict=True)]
    more = (
        f", the newest {len(shown)} of {len(settings)} settings"
        if len(settings) > len(shown)
        else ""
    )
    return Comparison(
        key="steps",
        title=title,
        sentence="The dev score during training, the mean over the seeds of a setting"
        f"{more}; an early flat end means that fewer steps would do.",
        form="curves",
        series=tuple(series),
        across="steps",
        score="dev score",
    )


def _curve(label: str, runs: Sequence[Run]) -> Series:
    at: dict[int, list[Measured]] = {}
    for run in runs:
        for step, value in run.curve:
            at.setdefault(step, []).append(Measured(value=value))
    # Where some of the seeds had stopped already, a mean of the others would jump.
    whole = {step: scores for step, scores in at.items() if len(scores) == len(runs)} or at
    return Series(
        label=label,
        points=tuple(Point(at=step, scores=tuple(whole[step])) for step in sorted(whole)),
    )


def _bases(task: str, runs: Sequence[Run], metric: Metric) -> Comparison | Missing:
    title = "Size of the base model"
    kinds: dict[str, dict[int, list[Run]]] = {}
    for run in runs:
        kinds.setdefault(run.method, {}).setdefault(run.parameters, []).append(run)
    series = []
    for method in sorted(kinds, key=_place):
        best = {size: best_setting(some, metric) for size, some in kinds[method].items()}
        points = [_point(float(size), best[size], metric) for size in sorted(best)]
        series.append(Series(label=method.replace("-", " "), points=tuple(points)))
    if not any(len(each.points) > 1 for each in series):
        return Missing(
            title=title,
            reason=f"no method was run on base models of two sizes{_only(runs, 'base')}",
            command="promptreg tune --base OTHER_DIR --task "
            f"{task} --train train.jsonl --dev dev.jsonl --test test.jsonl",
        )
    return Comparison(
        key="base",
        title=title,
        sentence=f"{_capital(metric.text)} against the parameters of the frozen base model, for each "
        f"method the best setting on each base model{_chosen(runs, metric)}.",
        form="lines",
        series=tuple(series),
        across="parameters of the base model (log scale)",
        score=_axis(metric),
        log=True,
    )


def _methods(task: str, runs: Sequence[Run], metric: Metric) -> Comparison | Missing:
    title = "Prompt tuning beside other methods"
    on_base: dict[str, list[Run]] = {}
    for run in runs:
        on_base.setdefault(run.base, []).append(run)
    if on_base:
        base = max(on_base, key=lambda name: (len(_names(on_base[name])), len(on_base[name]), name))
        runs = on_base[base]
    if len(_names(runs)) < 2:  # noqa: PLR2004
        lacks = MODEL_TUNING if any(run.method == PROMPT_DESIGN for run in runs) else PROMPT_DESIGN
        return Missing(
            title=title,
            reason="no two methods were measured on one base model",
            command=f"promptreg tune --method {lacks} --base DIR --task {task} "
            "--train train.jsonl --dev dev.jsonl --test test.jsonl",
        )
    rows: dict[tuple[int, int, str], list[Run]] = {}
    for run in runs:
        tokens = f", {run.length} token{'s' * (run.length != 1)}" if run.length else ""
        rows.setdefault((_place(run.method), _amount(run), run.name + tokens), []).append(run)
    best = {key: best_setting(some, metric) for key, some in sorted(rows.items())}
    # Too many rows: the worst prompts go, what they are compared with stays.
    between = [key for key in best if key[0] == _BETWEEN]
    between.sort(key=lambda key: metric.rank(_mean(best[key], metric).value))
    left_out = set(between[: max(len(best) - _MOST_ROWS, 0)])
    points = [_point(key[2], some, metric) for key, some in best.items() if key not in left_out]
    return Comparison(
        key="methods",
        title=title,
        sentence=f"{_capital(metric.text)} on {base}, for each method the best setting"
        f"{_chosen(runs, metric)}; whiskers are 95 % intervals, dots the seeds.",
        form="bars",
        series=(Series(label="", points=tuple(points)),),
        score=_axis(metric),
    )


def _seeds(task: str, runs: Sequence[Run], metric: Metric) -> Comparison | Missing:
    title = "Seeds"
    settings: dict[str, list[Run]] = {}
    for run in runs:
        settings.setdefault(_key(run.setting), []).append(run)
    several = [
        group
        for group in settings.values()
        if len({run.hyperparameters.get("seed") for run in group} - {None}) > 1
    ]
    if not several:
        return Missing(
            title=title,
            reason="no setting was run with two seeds",
            command=_sweep(task, "seed=0,1,2"),
        )
    several.sort(key=lambda group: -metric.rank(_mean(group, metric).value))
    several = several[:_MOST_ROWS]
    labels = describe([group[0].setting for group in several], names=True)
    points = [_point(label, group, metric) for label, group in zip(labels, several, strict=True)]
    return Comparison(
        key="seeds",
        title=title,
        sentence=f"{_capital(metric.text)} of each seed, and the mean, where a setting was run with "
        "several; what lies within this spread is no difference.",
        form="dots",
        series=(Series(label="", points=tuple(points)),),
        score=_axis(metric),
    )


def _series(
    varying: Sequence[Setting], metric: Metric, place: Callable[[Scalar], float | str]
) -> tuple[Series, ...]:
    labels = describe([each.fixed for each in varying])
    return tuple(
        Series(
            label=label,
            points=tuple(_point(place(at), runs, metric) for at, runs in each.runs.items()),
        )
        for label, each in zip(labels, varying, strict=True)
    )


def _point(at: float | str, runs: Iterable[Run], metric: Metric) -> Point:
    scores = (run.score(metric) for run in runs)
    return Point(at=at, scores=tuple(score for score in scores if score is not None))


def _mean(runs: Iterable[Run], metric: Metric) -> Measured:
    return _point("", runs, metric).mean


def _key(setting: Mapping[str, Scalar]) -> str:
    return repr(sorted(setting.items()))


def _names(runs: Sequence[Run]) -> set[str]:
    return {run.name for run in runs}


def _place(method: str) -> int:
    """Return where a method stands: written prompts first, model tuning last, all others between."""
    return {PROMPT_DESIGN: 0, MODEL_TUNING: 2}.get(method, _BETWEEN)


def _amount(run: Run) -> int:
    """Return what orders the runs of one method: virtual tokens, or examples in the written prompt."""
    shots = run.hyperparameters.get("shots")
    return run.length or (shots if isinstance(shots, int) else 0)


def _axis(metric: Metric) -> str:
    return f"{metric.text} (lower is better)" if metric.lower_is_better else metric.text


def _equal(varying: Sequence[Setting]) -> str:
    if varying[0].fixed is None:
        return "other settings differ as well, the best of them is shown."
    if len(varying) == 1:
        return "all other settings are equal."
    return "along each line all other settings are equal."


def _chosen(runs: Sequence[Run], metric: Metric) -> str:
    judge = judging(runs, metric)
    return f" by its {judge.text}" if judge != metric else ""


def _one_value(runs: Sequence[Run], name: str, what: str, unit: str) -> str:
    values = sorted({str(run.setting[name]) for run in runs if name in run.setting})
    if not values:
        return f"no prompt with a score has a recorded {what}"
    return f"all prompts with a score have one {what}, {values[0]} {unit}".rstrip()


def _only(runs: Sequence[Run], name: str) -> str:
    values = sorted({str(run.setting[name]) for run in runs})
    return f", only on {values[0]}" if len(values) == 1 else ""


def _sweep(task: str, grid: str) -> str:
    return (
        f"promptreg sweep --base DIR --task {task} --train train.jsonl --dev dev.jsonl "
        f"--test test.jsonl --grid {grid}"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
