"""The report: one page, without network or script, drawn from what is registered about some tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from promptreg.errors import (
    InvalidValueError,
    MissingDependencyError,
    PromptNotFoundError,
    TaskNotFoundError,
)
from promptreg.tuning.comparisons import Comparison, Missing, compare_runs
from promptreg.tuning.runs import Measured, Metric, Run, choose_metric, collect, shown
from promptreg.tuning.varying import judging

if TYPE_CHECKING:
    from promptreg.registry import Registry

__all__ = ["Report", "report"]

_NO_RUNS = (
    "no prompt and no result of that name is registered; "
    "'promptreg tune --task {task} --base DIR --train train.jsonl --dev dev.jsonl' makes some"
)
_NO_SCORE = "promptreg eval {ref} --base DIR --data test.jsonl --prefix test_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A page about some tasks.

    Attributes:
        html: The page.
        tasks: What it is about.
        runs: How many prompt versions and results are in it.
    """

    html: str
    tasks: tuple[str, ...]
    runs: int


def report(
    registry: "Registry",
    tasks: Sequence[str],
    *,
    when: datetime,
    metric: str | None = None,
    title: str = "Prompt tuning",
) -> Report:
    """Return the page about ``tasks``; the same runs at the same time give the same page.

    Args:
        registry: Where the runs are registered.
        tasks: Their names; ``*`` and ``?`` are wildcards.
        when: The moment that the page says it was made at.
        metric: What to compare by, instead of the test score or, where there is none, the dev score.
        title: What stands on top.

    Raises:
        TaskNotFoundError: There is no such task, but some of almost that name.
        PromptNotFoundError: Nothing is registered for a task.
        InvalidValueError: No run of any of the tasks has ``metric``.
        MissingDependencyError: jinja2 or matplotlib is not installed.
    """
    runs: dict[str, tuple[Run, ...]] = {}
    for task in tasks:
        runs |= _collect(registry, task)
    sections = [_section(task, runs[task], metric) for task in sorted(runs)]
    if metric is not None and all(section.metric is None for section in sections):
        choose_metric(
            [run for some in runs.values() for run in some], metric
        )  # says which there are
    page = _render(
        title=title,
        when=when,
        registry=_name(str(registry)),
        sections=sections,
        bases=sorted({run.base for some in runs.values() for run in some}),
    )
    return Report(html=page, tasks=tuple(sorted(runs)), runs=sum(map(len, runs.values())))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """What the page says about one task."""

    task: str
    metric: Metric | None
    runs: Sequence[Run]
    best: Run | None
    judge: Metric | None
    plots: Sequence[Comparison]
    missing: Sequence[Missing]
    columns: Sequence[str]


def _collect(registry: "Registry", task: str) -> dict[str, tuple[Run, ...]]:
    try:
        found = collect(registry, task)
    except TaskNotFoundError as error:
        if error.known:  # a slip of the finger: the error names the nearest
            raise
        raise PromptNotFoundError(task, _NO_RUNS.format(task=task)) from error
    if not found:
        name = "NAME" if set(task) & set("*?") else task
        raise PromptNotFoundError(task, _NO_RUNS.format(task=name))
    return found


def _section(task: str, runs: Sequence[Run], wanted: str | None) -> _Section:
    try:
        metric = choose_metric(runs, wanted)
    except InvalidValueError:  # of several tasks, another may have it
        metric = None
    compared = [] if metric is None else compare_runs(task, runs, metric)
    missing = [each for each in compared if isinstance(each, Missing)]
    if metric is None:
        refs = [run.ref for run in runs if run.ref is not None]
        command = _NO_SCORE.format(ref=refs[0] if refs else f"{task}@1")
        reason = "no run has a score" if wanted is None else f"no run has the metric {wanted}"
        missing = [Missing(title="All plots", reason=reason, command=command)]
    prompts = [run for run in runs if run.ref is not None and metric and run.score(metric)]
    judge = None if metric is None else judging(prompts, metric)
    return _Section(
        task=task,
        metric=metric,
        runs=_best_first(runs, metric),
        best=None if judge is None else _best(prompts, judge),
        judge=judge,
        plots=[each for each in compared if isinstance(each, Comparison)],
        missing=missing,
        columns=_columns(metric),
    )


def _best_first(runs: Sequence[Run], metric: Metric | None) -> Sequence[Run]:
    def rank(run: Run) -> float:
        score = None if metric is None else run.score(metric)
        return float("inf") if metric is None or score is None else -metric.rank(score.value)

    return sorted(runs, key=rank)


def _best(runs: Sequence[Run], judge: Metric) -> Run | None:
    scored = [(judge.rank(score.value), run) for run in runs if (score := run.score(judge))]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def _columns(metric: Metric | None) -> Sequence[str]:
    if metric is None:
        return ()
    pair = (f"dev_{metric.score}", f"test_{metric.score}")
    return pair if metric.name in pair else (metric.name,)


def _name(registry: str) -> str:
    """Return what to call the registry: not the path of somebody's directory, for pages are shared."""
    return PurePath(registry).name if registry.startswith("sqlite:") else registry


def _render(**values: Any) -> str:
    try:
        import jinja2
        import matplotlib as mpl  # noqa: F401, it draws below
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "jinja2", "report", "a report") from error
    from promptreg.tuning.plots import draw

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "measured": _measured, "duration": _duration}
    source = (files("promptreg.tuning") / "report.html.j2").read_text("utf-8")
    return environment.from_string(source).render(draw=draw, **values)


def _number(value: object) -> str:
    """Return a hyperparameter or metric as a person reads it; nothing for None."""
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _measured(score: Measured | None) -> str:
    if score is None:
        return ""
    if score.low is None or score.high is None:
        return shown(score.value)
    return f"{shown(score.value)} [{shown(score.low)}, {shown(score.high)}]"


def _duration(seconds: object) -> str:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
