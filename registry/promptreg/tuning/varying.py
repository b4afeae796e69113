"""Settings that differ in one thing only: what may be compared, and in which words it is told apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptreg.prompts import Method, Scalar
from promptreg.tuning.runs import Metric, Run, mean

__all__ = ["Setting", "best_setting", "describe", "judging", "settings_that_vary"]

_SHORT = {"learning_rate": "lr", "batch_size": "batch", "weight_decay": "decay"}
_LEADING = ("method", "length", "init", "base", "learning_rate", "steps")
_LONGEST = 28
_MOST_WORDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Runs that agree in everything but one thing, and the seed.

    Attributes:
        fixed: What they agree in; None if they are the best at each value, whatever else differs.
        runs: The runs by the value of that thing, in its order.
    """

    fixed: Mapping[str, Scalar] | None
    runs: Mapping[Scalar, Sequence[Run]]


def settings_that_vary(
    runs: Sequence[Run], metric: Metric, name: str, *, most: int
) -> list[Setting]:
    """Return the settings in which ``name`` takes two values or more while all else is equal.

    Those with the most values come first, then those that score best. If there are none, but ``name`` does
    take two values, it is one setting: the best at each value.

    Args:
        runs: Runs with a score.
        metric: Which score.
        name: ``length``, ``init`` or another part of ``Run.setting``.
        most: How many settings at most.
    """
    fixed: dict[str, Mapping[str, Scalar]] = {}
    found: dict[str, dict[Scalar, list[Run]]] = {}
    values: dict[Scalar, list[Run]] = {}
    for run in runs:
        setting = run.setting
        if name not in setting:
            continue
        value = setting.pop(name)
        key = repr(sorted(setting.items()))
        fixed[key] = setting
        found.setdefault(key, {}).setdefault(value, []).append(run)
        values.setdefault(value, []).append(run)
    varying = [key for key in found if len(found[key]) > 1]
    if not varying:
        best = {value: best_setting(some, metric) for value, some in values.items()}
        return [Setting(fixed=None, runs=_ordered(best))] if len(best) > 1 else []

    def rank(key: str) -> tuple[int, float, str]:
        scores = [metric.rank(_score(some, metric)) for some in found[key].values()]
        return -len(found[key]), -max(scores), key

    shown = sorted(varying, key=rank)[:most]
    return [
        Setting(fixed=fixed[key], runs=_ordered(found[key]))
        for key in sorted(shown, key=lambda key: _natural(fixed[key]))
    ]


def best_setting(runs: Sequence[Run], metric: Metric) -> Sequence[Run]:
    """Return the runs of the best setting among ``runs``, as ``judging`` has it."""
    judge = judging(runs, metric)
    settings: dict[str, list[Run]] = {}
    for run in runs:
        settings.setdefault(repr(sorted(run.setting.items())), []).append(run)
    best = max(settings, key=lambda key: (judge.rank(_score(settings[key], judge)), key))
    return settings[best]


def judging(runs: Sequence[Run], metric: Metric) -> Metric:
    """Return what to choose the best of ``runs`` by.

    It is the score on dev data where all have one: a choice by the test data would flatter what is chosen.
    """
    dev = Metric(name=f"dev_{metric.score}")
    return dev if all(run.score(dev) is not None for run in runs) else metric


def describe(settings: Sequence[Mapping[str, Scalar] | None], *, names: bool = False) -> list[str]:
    """Return words that tell ``settings`` apart: the method, and in what those of one method differ.

    One alone needs no words.

    Args:
        settings: What is to be told apart.
        names: Whether one alone is named too.
    """
    known = [setting or {} for setting in settings]
    of_method: dict[Scalar | None, list[Mapping[str, Scalar]]] = {}
    for setting in known:
        of_method.setdefault(setting.get("method"), []).append(setting)
    labels = []
    for setting in known:
        keys = _differing(of_method[setting.get("method")])
        # Virtual tokens say that it is prompt tuning, unless it is another kind of it.
        plain = "length" in keys and setting.get("method") == Method.PROMPT_TUNING
        if (len(of_method) > 1 or (names and not keys)) and not plain:
            keys = ["method", *keys]
        labels.append(_words(setting, keys))
    # Cut to a length that fits, two may read alike: numbers tell them apart then.
    return [
        f"{label} ({labels[: at + 1].count(label)})" if label and labels.count(label) > 1 else label
        for at, label in enumerate(labels)
    ]


def _differing(settings: Sequence[Mapping[str, Scalar]]) -> list[str]:
    """Return the keys whose values differ among ``settings``, those that a person asks for first in front."""
    keys = {key for setting in settings for key in setting}
    return sorted(
        (key for key in keys if len({repr(each.get(key)) for each in settings}) > 1), key=_order
    )


def _words(setting: Mapping[str, Scalar], keys: Sequence[str]) -> str:
    words = [_word(key, setting[key]) for key in keys if key in setting]
    return ", ".join(words[:_MOST_WORDS]) + (", …" if len(words) > _MOST_WORDS else "")


def _word(key: str, value: Scalar) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    if key in {"method", "base"}:
        return text.replace("-", " ") if key == "method" else text
    if key == "length":
        return f"{text} token{'s' * (value != 1)}"
    return f"{_SHORT.get(key, key.replace('_', ' '))} {text}"


def _order(key: str) -> tuple[int, str]:
    return (_LEADING.index(key) if key in _LEADING else len(_LEADING), key)


def _natural(setting: Mapping[str, Scalar]) -> list[tuple[tuple[int, str], float, str]]:
    """Return what sorts settings as a person would: by length, then by initialisation, and so on."""
    return [
        (_order(key), float(value) if isinstance(value, int | float) else 0.0, str(value))
        for key, value in sorted(setting.items(), key=lambda item: _order(item[0]))
    ]


def _ordered(runs: Mapping[Scalar, Sequence[Run]]) -> dict[Scalar, Sequence[Run]]:
    """Return ``runs`` with the values in order: numbers by size, texts by their letters."""
    numbers = all(isinstance(value, int | float) for value in runs)
    return {value: runs[value] for value in sorted(runs, key=None if numbers else str)}


def _score(runs: Sequence[Run], metric: Metric) -> float:
    scores = (run.score(metric) for run in runs)
    return mean(score for score in scores if score is not None).value
